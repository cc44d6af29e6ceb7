# What the tests of the shims ask for.

use strict;
use warnings;

my $count = 0;
srand 1;

my %answers = (
    '/body' => sub { $_[1] },
    '/stdin' => sub { local $/; <STDIN> },
    '/variables' => sub { join ' ', $_[0]{PROBE}, $ENV{PROBE}, $ENV{OTHER} // 'none' },
    '/print' => sub { print 'printed, '; 'returned' },
    '/program' => sub { local $| = 1; print 'before, '; system 'echo program'; undef },
    '/header' => sub { WS::header('X-WS-Close', '1000 bye'); undef },
    '/split-header' => sub { WS::header('X-WS-Close', "1000\r\nX-WS-User: root") },
    '/throw' => sub { print 'half'; die 'thrown as asked' },
    '/exit-0' => sub { print 'half'; exit },
    '/exit-3' => sub { exit 3 },
    '/signal' => sub { kill KILL => $$ },
    '/count' => sub { ++$count },
    '/random' => sub { rand },
    '/pid' => sub { $$ },
    '/hang' => sub { system 'sleep', '600' },
    '/shell' => sub { system $_[0]{COMMAND}; 'done' },
    '/wait' => \&wait_for_file,
    '/descriptors' => \&descriptors,
);

sub wait_for_file {
    my ($env) = @_;
    open my $begun, '>', "$env->{FILE}.begun" or die $!;
    close $begun;
    select undef, undef, undef, 0.001 while !-e $env->{FILE};
    return 'waited';
}

sub descriptors {
    opendir my $directory, '/proc/self/fd' or die $!;
    my @names = grep { /^\d/ } readdir $directory;
    closedir $directory;

    # That of the directory is gone.
    return join "\n", map { "$_ " . (readlink("/proc/self/fd/$_") // '') } @names;
}

sub { my ($env, $body) = @_; $answers{ $env->{REQUEST_URI} }->($env, $body) };
