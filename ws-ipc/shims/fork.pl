#!/usr/bin/perl

# Runs a Perl application for ws: loads it once, then answers each request in a new process.
#
#     perl fork.pl app.pl               a forked process per request
#     perl fork.pl --worker app.pl      all requests one after another in this process
#
# The application is a file that ends with a sub. What that prints, and what it returns, is the
# answer:
#
#     # Loaded once: modules, configuration, templates.
#     sub { my ($env, $body) = @_; return "$body, said $env->{REMOTE_ADDR}" };
#
# $env holds the variables of CGI, which are also in %ENV; $body is a string of bytes, which are
# also on STDIN. WS::header('X-WS-Close', '1000 bye') adds a header to the answer. What programs
# that it starts write to stdout belongs to the answer, too. To answer is to return: who dies or
# exits has not answered, and what was printed before is dropped.
#
# Whatever the application opens while it is loaded is shared by all processes, which no connection
# to a database stands: open those in the sub.
#
# A large application is forked in a fraction of the time if its memory is on pages of 2 MiB, for
# which glibc 2.35 asks with GLIBC_TUNABLES=glibc.malloc.hugetlb=1 in the environment.
#
# Descriptor 0 is a listening Unix socket, the protocol is SCGI, the answer is CGI's with a
# Content-Length. SIGTERM ends it after the requests that it has accepted. Needs Perl 5.14 and
# nothing but its core modules.

package WS;

use strict;
use warnings;

use Carp ();
use Errno qw(EAGAIN);
use File::Spec ();
use IO::Handle ();
use IO::Select ();
use POSIX qw(WNOHANG);
use Socket qw(SOL_SOCKET SO_ACCEPTCONN MSG_DONTWAIT MSG_NOSIGNAL);

use constant MAX_REQUEST_SIZE => 64 << 20;
use constant MAX_CHILDREN     => 256;

my @headers;
my $is_ending  = 0;
my $is_running = 0;

# Adds a header to the answer: X-WS-Type, X-WS-Close, X-WS-User, Status, Set-Cookie, ...
sub header {
    my ($name, $value) = @_;
    Carp::croak("not a header: $name")
        if $name !~ /\A[A-Za-z0-9-]+\z/ || $value =~ /[\x00-\x1F\x7F]/;
    push @headers, "$name: $value";
    return;
}

# Takes an SCGI request apart: its variables and its body; nothing if more has to come.
sub parse_request {
    my ($bytes) = @_;
    if ($bytes !~ /\A([0-9]{1,9}):/) {
        die "request does not begin with a length\n" if $bytes !~ /\A[0-9]{0,9}\z/;
        return;
    }
    my $size  = $1;
    my $start = length($size) + 1;
    return if length($bytes) <= $start + $size;

    my @fields = split /\0/, substr($bytes, $start, $size), -1;
    die "variables of the request are malformed\n"
        if substr($bytes, $start + $size, 1) ne ',' || pop(@fields) ne '' || @fields % 2;
    my $env    = {@fields};
    my $length = $env->{CONTENT_LENGTH} // '';
    die "request does not tell the length of its body\n" if $length !~ /\A[0-9]+\z/;
    return if length($bytes) < $start + $size + 1 + $length;

    return ($env, substr($bytes, $start + $size + 1, $length));
}

sub build_answer {
    my ($headers, $body) = @_;
    return join("\r\n", @$headers, 'Content-Length: ' . length($body), '', '') . $body;
}

# Runs the application for one request and returns the answer.
sub run {
    my ($application, $env, $body) = @_;
    @headers = ();
    local @ENV{keys %$env} = values %$env;

    my $input  = anonymous_file($body);
    my $output = anonymous_file('');
    open my $log, '>&', \*STDOUT or die "cannot keep the standard output: $!\n";
    become(\*STDIN,  $input);
    become(\*STDOUT, $output);
    seek STDIN, 0, 0;
    my $answer;
    my $trace = '';
    $is_running = 1;
    eval {
        local $SIG{__DIE__} = sub { $trace = Carp::longmess('raised') };
        my $returned = $application->($env, $body);
        print STDOUT $returned if defined $returned;
        STDOUT->flush;
        sysseek $output, 0, 0;
        sysread $output, my $printed, -s $output;
        $answer = build_answer(\@headers, $printed);
        1;
    } or print STDERR $@, $trace;
    $is_running = 0;
    STDOUT->flush;
    become(\*STDOUT, $log);
    return $answer // build_answer(['Status: 500'], '');
}

END {
    print STDERR "fork.pl: the application exited instead of returning\n" if $is_running;
}

# Handles keep their layers, which the application may have set while it was loaded.
sub become {
    my ($handle, $other) = @_;
    POSIX::dup2(fileno $other, fileno $handle) or die "cannot duplicate a descriptor: $!\n";
    return;
}

# A file, since bodies may be larger than a pipe. In memory if possible: to delete it costs a disk
# milliseconds.
sub anonymous_file {
    my ($content) = @_;
    local $ENV{TMPDIR} = '/dev/shm';
    open my $file, '+>', undef or die "cannot make a temporary file: $!\n";
    binmode $file;
    print $file $content;
    $file->flush;
    sysseek $file, 0, 0;
    return $file;
}

# Writes the whole answer, unless nobody waits for it any more.
sub deliver {
    my ($connection, $answer) = @_;
    while (length $answer) {
        my $sent = send $connection, $answer, MSG_NOSIGNAL;
        return if !$sent;
        substr($answer, 0, $sent, '');
    }
    return;
}

# Waits for connections and their requests, and for the ends of the children that answer them.
sub serve_forking {
    my ($listener, $application) = @_;
    my %arriving;    # By descriptor: a connection that is being read, and what came.
    my %children;    # By process id: the connection, undefined once nobody waits there.
    local $SIG{TERM} = sub { $is_ending = 1 };
    local $SIG{CHLD} = sub { };                  # Interrupts the waiting.

    while (!$is_ending || %arriving || %children) {
        for my $source (wait_for_any($listener, \%arriving, \%children)) {
            if ($source == $listener) {
                accept my $connection, $listener or next;
                $arriving{fileno $connection} = [$connection, ''];
            }
            elsif (!$arriving{fileno $source}) {
                hang_up(\%children, $source);
            }
            elsif (my ($env, $body) = read_some(\%arriving, $source)) {
                my $pid = fork;
                if (!defined $pid) {
                    print STDERR "fork.pl: cannot fork: $!\n";
                }
                elsif ($pid == 0) {
                    setpgrp 0, 0;
                    become_child($listener, \%arriving, \%children);
                    answer_as_child($source, $application, $env, $body);
                }
                else {
                    setpgrp $pid, $pid;    # The child does the same: whoever comes first.
                    $children{$pid} = $source;
                }
            }
        }
        reap(\%children);
    }
    return;
}

# Returns what can be read.
sub wait_for_any {
    my ($listener, $arriving, $children) = @_;
    my @sources = (grep({ defined } values %$children), map { $_->[0] } values %$arriving);
    push @sources, $listener if !$is_ending && keys(%$arriving) + keys(%$children) < MAX_CHILDREN;

    # A signal interrupts the waiting; its limit is for one that came a moment before it.
    return IO::Select->new(@sources)->can_read(%$children ? 0.1 : 1);
}

# Returns variables and body of the request once it is whole.
sub read_some {
    my ($arriving, $connection) = @_;
    my $entry = $arriving->{fileno $connection};
    my $came  = recv $connection, my $more, 1 << 16, MSG_DONTWAIT;
    return if !defined $came && $! == EAGAIN;

    $entry->[1] .= $more // '';
    my @request = eval { parse_request($entry->[1]) };
    print STDERR "fork.pl: $@" if $@;
    my $may_go_on = !$@ && length($more // '') && length $entry->[1] < MAX_REQUEST_SIZE;
    delete $arriving->{fileno $connection} if @request || !$may_go_on;
    return @request;
}

# Lets go of what is the parent's. Each child draws random numbers of its own.
sub become_child {
    my ($listener, $arriving, $children) = @_;
    $SIG{TERM} = $SIG{CHLD} = 'DEFAULT';
    my @others = (grep({ defined } values %$children), map { $_->[0] } values %$arriving);
    close $_ for $listener, @others;
    srand;
    return;
}

sub answer_as_child {
    my ($connection, $application, $env, $body) = @_;
    my $answer = eval { run($application, $env, $body) };
    print STDERR $@ if $@;
    deliver($connection, $answer // '');

    # Not by way of the parent's END blocks and destructors.
    POSIX::_exit(0);
}

# The request was read to its end: what can be read then is a hang-up.
sub hang_up {
    my ($children, $connection) = @_;
    for my $pid (grep { defined $children->{$_} } keys %$children) {
        next if $children->{$pid} != $connection;
        kill '-KILL', $pid;
        $children->{$pid} = undef;
    }
    return;
}

sub reap {
    my ($children) = @_;
    for my $pid (keys %$children) {
        my $is_over = has_ended($pid);

        # What it started dies with it, as long as its number cannot be another's.
        kill '-KILL', $pid if $is_over;
        next if defined $is_over && !$is_over || waitpid($pid, WNOHANG) == 0;
        my $status = $?;

        # The number is at least taken while its group has members.
        kill '-KILL', $pid if !defined $is_over;
        my $connection = delete $children->{$pid} or next;
        printf STDERR "fork.pl: process %d was killed by signal %d\n", $pid, $status & 127
            if $status & 127;
        printf STDERR "fork.pl: process %d ended with status %d\n", $pid, $status >> 8
            if $status >> 8;
    }
    return;
}

# Tells whether a child has ended, and leaves it to be reaped: Perl has no waitid. Undefined where
# /proc may not be read.
sub has_ended {
    my ($pid) = @_;
    open my $stat, '<', "/proc/$pid/stat" or return;

    # The state follows the name, which may hold anything.
    return (<$stat> // '') =~ /.*[)] [ZX]/s;
}

# Answers requests one after another.
sub serve_as_worker {
    my ($listener, $application) = @_;
    local $SIG{TERM} = sub { $is_ending = 1 };
    my $select = IO::Select->new($listener);
    while (!$is_ending) {
        next if !$select->can_read(1);
        accept my $connection, $listener or next;
        my %arriving = (fileno $connection => [$connection, '']);
        my @request;
        while (%arriving) {
            IO::Select->new($connection)->can_read;
            @request = read_some(\%arriving, $connection);
        }
        deliver($connection, run($application, @request)) if @request;
    }
    return;
}

# Takes the socket from descriptor 0, which becomes what a program may read from.
sub take_listener {
    my $is_listening = getsockopt STDIN, SOL_SOCKET, SO_ACCEPTCONN;
    die "fork.pl: descriptor 0 is no listening socket\n"
        if !$is_listening || !unpack 'i', $is_listening;
    open my $listener, '+<&', \*STDIN or die "fork.pl: cannot duplicate descriptor 0: $!\n";
    $listener->blocking(0);
    open STDIN, '<', File::Spec->devnull or die "fork.pl: cannot open /dev/null: $!\n";
    return $listener;
}

sub load {
    my ($file) = @_;
    my $path = File::Spec->rel2abs($file);
    die "fork.pl: cannot read $file: $!\n" if !-r $path;
    my $application = do $path;
    die $@ if $@;
    die "fork.pl: $file does not end with a sub\n" if ref $application ne 'CODE';

    # What is buffered now would be part of every answer.
    STDOUT->flush;
    return $application;
}

sub main {
    my @arguments = @_;
    my $is_worker = @arguments && $arguments[0] eq '--worker' && shift @arguments;
    die "usage: perl fork.pl [--worker] APPLICATION.pl\n" if @arguments != 1;
    my $listener    = take_listener();
    my $application = load($arguments[0]);
    if ($is_worker) {
        serve_as_worker($listener, $application);
    }
    else {
        serve_forking($listener, $application);
    }
    return;
}

main(@ARGV) if !caller;

1;
