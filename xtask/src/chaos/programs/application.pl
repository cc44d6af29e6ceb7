# Gives back what it is asked, by way of the server's own fork.pl, and takes its time, so that it
# can be hit. The question "stop" stops who is to answer it.

use strict;
use warnings;

sub {
    my ($env, $body) = @_;
    kill STOP => $$ if $body eq 'stop';
    select undef, undef, undef, 0.02;
    return $body;
};
