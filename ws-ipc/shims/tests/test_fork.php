<?php

declare(strict_types=1);

require __DIR__ . '/../fork.php';

const REQUEST = "35:CONTENT_LENGTH\x003\0REQUEST_URI\0/t\u{fc},\0,a\0b";

function test(string $claim, callable $test): void
{
    $test();
    echo "ok - $claim\n";
}

function refuses(string $class, callable $act): bool
{
    try {
        $act();
    } catch (Exception $error) {
        return $error instanceof $class;
    }
    return false;
}

test('request is taken apart', function () {
    [$variables, $body] = ws\parse_request(REQUEST);
    assert($variables === ['CONTENT_LENGTH' => '3', 'REQUEST_URI' => "/t\u{fc},"]);
    assert($body === "a\0b");
});

test('what has to come is waited for', function () {
    for ($end = 0; $end < strlen(REQUEST); $end++) {
        $length = ws\request_length(substr(REQUEST, 0, $end));
        assert($length === null || $length === strlen(REQUEST));
    }
    assert(ws\request_length(REQUEST) === strlen(REQUEST));
});

test('what follows is ignored', function () {
    assert(ws\request_length(REQUEST . 'more') === strlen(REQUEST));
    assert(ws\parse_request(REQUEST . 'more') === ws\parse_request(REQUEST));
});

test('what is no request is refused', function () {
    $starts = [
        'GET / HTTP/1.1', ':', '-1:,', '1234567890', '4:A\0B\0,', "18:CONTENT_LENGTH\0-1\0,",
        "16:CONTENT_LENGTH\0\0,", "30:REQUEST_URI\0/\0CONTENT_LENGTH\0000\0,",
    ];
    foreach ($starts as $start) {
        $bytes = str_pad($start, 36, '0');
        $fails = refuses(UnexpectedValueException::class, fn () => ws\request_length($bytes));
        assert($fails, $start);
    }
    $faulty = [
        "17:CONTENT_LENGTH\x000\0;", "18:CONTENT_LENGTH\x000\0A,", "19:CONTENT_LENGTH\x000\0A\0,",
        "17:CONTENT_LENGTH\x000\0",
    ];
    foreach ($faulty as $bytes) {
        assert(refuses(UnexpectedValueException::class, fn () => ws\parse_request($bytes)), $bytes);
    }
});

test('answer announces its length in bytes', function () {
    $answer = ws\build_answer(['X-WS-Type: text'], "\u{fc}");
    assert($answer === "X-WS-Type: text\r\nContent-Length: 2\r\n\r\n\u{fc}");
    assert(ws\build_answer([], '') === "Content-Length: 0\r\n\r\n");
});

test('what is no header is refused', function () {
    foreach ([['', 'a'], ['A B', 'a'], ['A:', 'a'], ["A\n", 'a'], ['A', "a\rb"]] as $header) {
        assert(refuses(InvalidArgumentException::class, fn () => ws\header(...$header)));
    }
});

test('cookies are those that PHP would make', function () {
    assert(ws\parse_cookies('') == []);
    assert(ws\parse_cookies('a=1') == ['a' => '1']);
    assert(ws\parse_cookies('a=1;  b=%20+&;a=2') == ['b' => ' +&', 'a' => '1']);
    assert(ws\parse_cookies('a[x]=1; a[y]=2; b') == ['b' => '', 'a' => ['y' => '2', 'x' => '1']]);
});
