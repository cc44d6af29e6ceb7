#!/usr/bin/env php
<?php

// A chat: /say/TEXT goes to everybody, /tell/USER/TEXT to the connections of one user, and /who is
// answered with those who are there.
//
//   ws serve --validate VALIDATION -- ws-cli/examples/callbacks/chat.php
//
// It pushes as any program on this host can, by HTTP over the control socket.

declare(strict_types=1);

function control(string $method, string $path, ?array $request = null): array
{
    $socket = stream_socket_client('unix://' . getenv('WS_CONTROL_SOCKET'), $code, $error, 5);
    if ($socket === false) {
        throw new RuntimeException("control socket: $error");
    }
    $body = $request === null ? '' : json_encode($request, JSON_THROW_ON_ERROR);
    fwrite($socket, "$method $path HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        . 'Content-Length: ' . strlen($body) . "\r\n\r\n$body");
    [$head, $answer] = explode("\r\n\r\n", stream_get_contents($socket), 2);
    if (!str_starts_with($head, 'HTTP/1.1 200 ')) {
        throw new RuntimeException("control socket: $answer");
    }
    return json_decode($answer, true, flags: JSON_THROW_ON_ERROR);
}

$user = getenv('WS_USER_ID');
$message = stream_get_contents(STDIN);

if (preg_match('~^/say/(.+)$~s', $message, $match)) {
    control('POST', '/v1/send', ['to' => ['all' => true], 'text' => "$user: $match[1]"]);
} elseif (preg_match('~^/tell/([^/]+)/(.+)$~s', $message, $match)) {
    $request = ['to' => ['user' => $match[1]], 'text' => "$user, to you: $match[2]"];
    if (control('POST', '/v1/send', $request)['connections'] === 0) {
        echo "$match[1] is not here";
    }
} elseif ($message === '/who') {
    $users = array_column(control('GET', '/v1/connections')['connections'], 'user');
    $users = array_unique($users);
    sort($users);
    echo implode(', ', $users);
} else {
    echo 'Send /say/TEXT, /tell/USER/TEXT or /who.';
}
