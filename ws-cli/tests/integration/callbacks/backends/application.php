<?php

// What the tests of the backends ask, by way of php-fpm.

function answer(string $act, string $argument): string
{
    switch ($act) {
        case 'close':
            header('X-WS-Close: 4001 enough for today');
            return 'last';
        case 'status':
            http_response_code((int) $argument);
            return 'partial';
        case 'uri':
            return explode('?', $_SERVER['REQUEST_URI'])[0] . " {$_SERVER['QUERY_STRING']}";
        case 'who':
            return $_SERVER['WS_USER_ID'];
        case 'long':
            return str_repeat('x', (int) $argument);
        case 'nothing':
            return '';
        case 'late':
            usleep(10000 * (int) $argument);
            return $argument;
        case 'crash':
            posix_kill(getmypid(), 9);
            return '';
        case 'hang':
            sleep(600);
            return '';
        default:
            return $argument;
    }
}

function validate(string $who): void
{
    if ($who === '') {
        http_response_code(401);
        return;
    }
    if ($who === 'crash' || $who === 'hang') {
        answer($who, '');
    }
    header("X-WS-User: $who");
    header("Set-Cookie: known=$who; HttpOnly");
}

header('X-WS-Type: ' . ($_SERVER['WS_MESSAGE_TYPE'] ?? 'text'));
if ($_SERVER['WS_EVENT'] === 'validate') {
    validate($_SERVER['HTTP_X_WHO'] ?? '');
} elseif ($_SERVER['REQUEST_METHOD'] === 'POST') {
    echo file_get_contents('php://input');
} else {
    preg_match('{\A/([a-z]+)(?:[/?](.*))?\z}', $_SERVER['REQUEST_URI'], $words);
    echo answer($words[1], $words[2] ?? '');
}
