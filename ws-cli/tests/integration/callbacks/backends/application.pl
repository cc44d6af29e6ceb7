# What the tests of the backends ask, by way of fork.pl.

use strict;
use warnings;

sub validate {
    my ($env) = @_;
    my $who = $env->{HTTP_X_WHO} // '';
    if ($who eq '') {
        WS::header('Status', '401 who are you');
        return '';
    }
    kill KILL => $$ if $who eq 'crash';
    sleep 600 if $who eq 'hang';
    WS::header('X-WS-User', $who);
    WS::header('Set-Cookie', "known=$who; HttpOnly");
    return '';
}

sub {
    my ($env, $body) = @_;
    return validate($env) if $env->{WS_EVENT} eq 'validate';

    if ($env->{REQUEST_METHOD} eq 'POST') {
        WS::header('X-WS-Type', $env->{WS_MESSAGE_TYPE});
        return $body;
    }
    my ($act, $argument) = $env->{REQUEST_URI} =~ m{\A/([a-z]+)(?:[/?](.*))?\z};
    if ($act eq 'close') {
        WS::header('X-WS-Close', '4001 enough for today');
        return 'last';
    }
    if ($act eq 'status') {
        WS::header('Status', $argument);
        return 'partial';
    }
    return "$env->{PATH_INFO} $env->{QUERY_STRING}" if $act eq 'uri';
    return $env->{WS_USER_ID} if $act eq 'who';
    return 'x' x $argument    if $act eq 'long';
    return ''                 if $act eq 'nothing';
    select undef, undef, undef, $argument / 100 if $act eq 'late';
    kill KILL => $$ if $act eq 'crash';
    sleep 600       if $act eq 'hang';
    return $argument;
};
