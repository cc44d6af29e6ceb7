use strict;
use warnings;

use File::Basename qw(dirname);
use File::Spec ();
use POSIX ();
use Test::More;

require(File::Spec->rel2abs(dirname(__FILE__) . '/../fork.pl'));

my $request = "35:CONTENT_LENGTH\x{0}3\0REQUEST_URI\0/t\xC3\xBC,\0,a\0b";

subtest 'request is taken apart' => sub {
    my ($env, $body) = WS::parse_request($request);
    is_deeply $env, { CONTENT_LENGTH => '3', REQUEST_URI => "/t\xC3\xBC," };
    is $body, "a\0b";
};

subtest 'what has to come is waited for' => sub {
    for my $size (0 .. length($request) - 1) {
        is_deeply [WS::parse_request(substr $request, 0, $size)], [], "$size bytes";
    }
};

subtest 'what follows is ignored' => sub {
    is_deeply [WS::parse_request($request . 'more')], [WS::parse_request($request)];
};

subtest 'what is no request is refused' => sub {
    my @faulty = (
        'x', ':', '-1:,', '1234567890', '3:abc,', "4:A\0B\0,", "17:CONTENT_LENGTH\x{0}0\0;",
        "18:CONTENT_LENGTH\0-1\0,", "16:CONTENT_LENGTH\0\0,",
    );
    for my $bytes (@faulty) {
        ok !eval { WS::parse_request($bytes); 1 }, "bytes: " . $bytes =~ s/\0/./gr;
    }
};

subtest 'answer announces its length' => sub {
    is WS::build_answer(['X-WS-Type: text'], "\xC3\xBC"),
        "X-WS-Type: text\r\nContent-Length: 2\r\n\r\n\xC3\xBC";
    is WS::build_answer([], ''), "Content-Length: 0\r\n\r\n";
};

subtest 'what is no header is refused' => sub {
    for my $header (['', 'a'], ['A B', 'a'], ['A:', 'a'], ["A\n", 'a'], ['A', "a\rb"]) {
        ok !eval { WS::header(@$header); 1 };
    }
};

subtest 'child that has ended is known before it is reaped' => sub {
    pipe my $read, my $write or die;
    my $pid = fork // die;
    if (!$pid) {
        close $write;
        sysread $read, my $byte, 1;
        POSIX::_exit(7);
    }
    ok !WS::has_ended($pid), 'it waits';
    close $write;
    select undef, undef, undef, 0.001 while !WS::has_ended($pid);
    is waitpid($pid, 0), $pid;
    is $? >> 8, 7;
};

done_testing;
