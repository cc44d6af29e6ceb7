<?php

// The bridge for CarbonPHP, run before the application in carbonphp/ as the server runs it.
//
// WS_CARBONPHP_ROOT names a CarbonPHP to run it on, instead of the stand-in; WS_BRIDGE the file of
// the bridge, as `ws carbonphp bridge` prints it, instead of the source.

declare(strict_types=1);

require __DIR__ . '/carbonphp/setup.php';

const SESSION = 'abcdefghijklmnopqrstuvwxyz';

// Whatever hangs ends here.
pcntl_alarm(600);

$isStandIn = getenv('WS_CARBONPHP_ROOT') === false;

/** @param callable $test called with a bridge */
function test(
    string $claim,
    callable $test,
    array $environment = [],
    string $configuration = '[]',
): void {
    $bridge = new Bridge($environment + ['WS_FORK_EXIT' => 'kill'], $configuration);
    try {
        $test($bridge);
    } catch (Throwable $error) {
        file_put_contents('php://stderr', "not ok - $claim\n$error\n" . $bridge->log() . "\n");
        $bridge->end();
        exit(1);
    }
    $bridge->end();
    echo "ok - $claim\n";
}

function with_session(string $cookie = 'user=7'): array
{
    return ['HTTP_COOKIE' => "$cookie; PHPSESSID=" . SESSION];
}

// What is reported

[$code, $report, $log] = describe();
assert($code === 0, $log);
assert($report['bridge'] === 1 && $report['php'] === PHP_VERSION);
assert($report['carbonphp'] === ($isStandIn ? '0.0.1' : $report['carbonphp']));
assert($report['root'] === '/site/' && $report['fifo_directory'] === '/site/tmp/fifo/');
assert([$report['host'], $report['port']] === ['localhost', 8888]);
assert([$report['tls'], $report['dev'], $report['verify_ip']] === [null, false, true]);
assert([$report['stream_select_seconds'], $report['auto_port']] === [10, false]);
assert(preg_match('/^\nCarbonPHP\\\\Abstracts\\\\Pipe:\d+\n$/D', $report['fifo_delimiter']) === 1);
assert($report['callbacks'] === ['validate' => 'application', 'message' => 'application']);
assert($report['session'] === ['configured' => true, 'remote' => false]);
assert($report['warnings'] === []);
echo "ok - what the application configures is reported\n";

[, $report] = describe(<<<'PHP'
    [
        'callbacks' => 'default',
        'configuration' => [
            'SOCKET' => [
                'PORT' => 8001,
                'HOST' => '127.0.0.1',
                'DEV' => true,
                'SSL' => ['KEY' => '/k', 'CERT' => '/c'],
            ],
            'SESSION' => null,
        ],
        'before' => function () {
            CarbonPHP\Programs\WebSocket::$port = 1;
            CarbonPHP\Programs\WebSocket::$verifyIP = false;
            CarbonPHP\Programs\WebSocket::$streamSelectSeconds = 3;
            CarbonPHP\Programs\WebSocket::$autoAssignOpenPorts = true;
        },
    ]
    PHP);
assert([$report['host'], $report['port'], $report['dev']] === ['127.0.0.1', 8001, true]);
assert($report['tls'] === ['cert' => '/c', 'key' => '/k']);
assert([$report['verify_ip'], $report['stream_select_seconds']] === [false, 3]);
assert($report['auto_port'] === true);
assert($report['callbacks'] === ['validate' => 'default', 'message' => 'default']);
assert($report['session'] === ['configured' => false, 'remote' => false]);
assert(count($report['warnings']) === 1);
echo "ok - configuration wins over the static properties\n";

[, $report] = describe("['configuration' => ['SOCKET' => ['SSL' => ['KEY' => '', 'CERT' => '']]]]");
assert($report['tls'] === null && $report['warnings'] === []);
[, $report] = describe("['configuration' => ['SOCKET' => ['SSL' => ['KEY' => '/k', 'CERT' => '']]]]");
assert($report['tls'] === null && $report['warnings'] === ['SOCKET.SSL.CERT is empty: no TLS']);
[, $report] = describe(<<<'PHP'
    ['before' => function () {
        CarbonPHP\Programs\WebSocket::$ssl = true;
        CarbonPHP\Programs\WebSocket::$cert = '/both.pem';
    }]
    PHP);
assert($report['tls'] === ['cert' => '/both.pem', 'key' => '/both.pem']);
echo "ok - an empty KEY or CERT is none\n";

[, $report] = describe(<<<'PHP'
    ['before' => function () {
        $GLOBALS['server'] = stream_socket_server('tcp://127.0.0.1:0');
        $address = stream_socket_get_name($GLOBALS['server'], false);
        $GLOBALS['client'] = stream_socket_client("tcp://$address");
    }]
    PHP);
assert(count($report['warnings']) === 1);
assert(str_contains($report['warnings'][0], 'all would use it at once'));
echo "ok - a connection that all would share is warned of\n";

[$code, $report, $log] = describe("['before' => fn () => exit(3)]");
assert($code === 3 && $report === null);
assert(str_contains($log, 'the application has ended before CarbonPHP ran its program websocket'));
echo "ok - an application that does not come to the program says so\n";

// Messages

test('a message is answered with what is printed, trimmed', function (Bridge $bridge) {
    assert($bridge->ask('/echo/hello')->body === 'hello');
    assert($bridge->ask('/spaces')->body === 'padded');
    assert($bridge->ask('/flushed')->body === 'first, second');
    assert($bridge->ask('/echo/hello')->isWhole());
});

test('no output is the text of the original', function (Bridge $bridge) {
    $matched = 'A route was matched but did not signal any output to stdout.';
    foreach (['/silent', '/blank', '/zero'] as $uri) {
        assert($bridge->ask($uri)->body === $matched);
    }
    $unmatched = $bridge->ask('empty')->body;
    $before = 'No route was matched in the Application for startApplication($uri = empty). Please remember ';
    assert(strlen($unmatched) === 210);
    assert(str_starts_with($unmatched, "$before\n" . str_repeat(' ', 20) . 'your sockets application'));
    assert(str_ends_with($unmatched, 'restart the socket server to see changes.'));
});

test('no output is an empty answer where the server has a text of its own', function (Bridge $bridge) {
    foreach (['/silent', '/blank', '/zero', '/unknown'] as $uri) {
        $answer = $bridge->ask($uri);
        assert($answer->isWhole() && $answer->body === '');
    }
}, ['WS_CARBONPHP_EMPTY' => 'none']);

test('any text is a URI, byte for byte', function (Bridge $bridge) {
    foreach (['%41+b?c=d', '{"a":1}', "\u{fc}\n\u{1f600}", str_repeat('x', 100_000)] as $text) {
        assert($bridge->ask("echo/$text")->body === $text);
    }
    foreach (['0', '"x"', '{"a":1}', '[1]', ' 42 ', 'null'] as $text) {
        assert(str_contains($bridge->ask($text)->body, "(\$uri = $text)."));
    }
});

test('a message sees its own connection', function (Bridge $bridge) {
    $bridge->addSession(SESSION, 'id|s:1:"7";');
    make_fifo("$bridge->site/user.fifo");
    $seen = $bridge->ask('/whoami', with_session() + [
        'WS_FIFO' => "$bridge->site/user.fifo",
        'HTTP_SEC_WEBSOCKET_KEY' => 'key',
        'HTTP_ACCEPT_LANGUAGE' => 'de',
    ])->json();
    $cookie = with_session()['HTTP_COOKIE'];
    assert($seen['server'] == [
        'HTTP_COOKIE' => $cookie,
        'REMOTE_ADDR' => '192.0.2.1',
        'REQUEST_URI' => '/whoami',
        'SERVER_PORT' => 8888,
        'User_Agent' => 'a browser',
        'Host' => 'example.org',
    ]);
    assert($seen['cookie'] == ['user' => '7', 'PHPSESSID' => SESSION]);
    assert($seen['session'] === ['id' => SESSION, 'user' => '7']);
    assert([$seen['user_ip'], $seen['is_socket'], $seen['is_cli']] === ['192.0.2.1', true, true]);
    assert($seen['protocol'] === 'wss://');
    assert($seen['information'] == [
        'class' => 'CarbonPHP\WebSocket\WsUserConnectionRelationship',
        'userId' => '7',
        'userPipe' => true,
        'userSocket' => true,
        'sessionId' => SESSION,
        'headers' => [
            'Host' => 'example.org',
            'User-Agent' => 'a browser',
            'Cookie' => $cookie,
            'Sec-WebSocket-Key' => 'key',
            'Accept-Language' => 'de',
        ],
        'port' => '4711',
        'ip' => '192.0.2.1',
    ]);
    // The next one has nothing of it.
    $other = ['HTTP_COOKIE' => 'user=8', 'WS_USER_ID' => '8', 'REMOTE_ADDR' => '::1'];
    $seen = $bridge->ask('/whoami', $other)->json();
    assert($seen['cookie'] === ['user' => '8'] && $seen['session'] == ['id' => '', 'user' => 0]);
    $information = $seen['information'];
    assert([$information['userId'], $information['ip'], $seen['user_ip']] === ['8', '::1', '::1']);
});

test('what a message leaves behind is not seen by the next', function (Bridge $bridge) {
    $pids = $numbers = [];
    for ($count = 0; $count < 4; $count++) {
        $pids[] = $bridge->ask('/pid')->body;
        $numbers[] = $bridge->ask('/random')->body;
    }
    assert(count(array_unique($pids)) === 4 && count(array_unique($numbers)) === 4);
});

test('the umask is not opened', function (Bridge $bridge) {
    assert($bridge->ask('/umask')->body === decoct(umask()));
});

test('events that the original does not know are answered with nothing', function (Bridge $bridge) {
    foreach (['open', 'close'] as $event) {
        $answer = $bridge->ask('/echo/hello', ['WS_EVENT' => $event]);
        assert($answer->isWhole() && $answer->body === '');
    }
});

// Failures

test('an exception costs one answer and is logged with its trace', function (Bridge $bridge) {
    $answer = $bridge->ask('/throw');
    assert($answer->header('Status') === '500' && $answer->body === '');
    assert($bridge->hasSaid('DomainException: thrown as asked in '));
    assert($bridge->hasSaid('#0 '));
    assert($bridge->ask('/echo/next')->body === 'next');
});

test('an exit costs one answer and is logged', function (Bridge $bridge) {
    assert($bridge->ask('/exit')->bytes === '');
    assert($bridge->hasSaid('the application exited instead of returning'));
    assert($bridge->ask('/killed')->bytes === '');
    assert($bridge->ask('/fatal')->bytes === '');
    assert($bridge->hasSaid('Allowed memory size of'));
    assert($bridge->ask('/echo/next')->body === 'next');
});

test('a warning costs nothing, a deprecation the answer, as in the original', function (Bridge $bridge) {
    assert($bridge->ask('/warn')->body === 'went on');
    assert($bridge->ask('/deprecated')->bytes === '' || !$GLOBALS['isStandIn']);
    assert($bridge->hasSaid('a warning as asked'));
    assert($bridge->ask('/echo/next')->body === 'next');
});

test('shutdown functions run, destructors do not', function (Bridge $bridge) {
    assert($bridge->ask('/later/mark')->body === 'at the end');
    assert(eventually(fn () => is_file("$bridge->site/mark")));
});

test('an application whose handler throws for what is silenced is served', function (Bridge $bridge) {
    for ($count = 0; $count < 20; $count++) {
        assert($bridge->ask('/echo/hello')->body === 'hello');
    }
}, configuration: <<<'PHP'
    [
        'configuration' => ['ERROR' => null],
        'before' => fn () => set_error_handler(fn ($level, $text) => throw new ErrorException($text)),
    ]
    PHP);

test('what is printed while it boots goes to the log', function (Bridge $bridge) {
    $bridge->addSession(SESSION, '');
    assert($bridge->ask('/count', with_session())->body === '1');
    assert($bridge->hasSaid('printed at the beginning'));
}, configuration: "['before' => fn () => print('printed at the beginning')]");

// Sessions

test('a message resumes its session and stores it before it is answered', function (Bridge $bridge) {
    $bridge->addSession(SESSION, 'count|i:41;');
    foreach (['42', '43', '44'] as $count) {
        assert($bridge->ask('/count', with_session())->body === $count);
        $stored = file_get_contents("$bridge->site/tmp/sessions/sess_" . SESSION);
        assert(str_contains($stored, "count|i:$count;"));
    }
    assert($bridge->sessions() === [SESSION]);
});

test('the session that validation found comes before the cookie\'s', function (Bridge $bridge) {
    $bridge->addSession(SESSION, 'count|i:1;');
    $bridge->addSession('other', 'count|i:100;');
    $answer = $bridge->ask('/count', with_session() + ['WS_SESSION_DATA' => 'other']);
    assert($answer->body === '101' && $answer->header('X-WS-Data') === null);
});

test('no session is made for a message without one', function (Bridge $bridge) {
    foreach (['', '; PHPSESSID=gone', '; PHPSESSID=../../etc/passwd', '; PHPSESSID[]=a'] as $more) {
        $cookie = "user=7$more";
        foreach (['gone', "a\nb", ''] as $data) {
            $answer = $bridge->ask('/count', ['HTTP_COOKIE' => $cookie, 'WS_SESSION_DATA' => $data]);
            assert($answer->body === '1');
        }
    }
    assert($bridge->sessions() === []);
});

test('a session that a message renews is known to the next', function (Bridge $bridge) {
    $bridge->addSession(SESSION, 'count|i:5;');
    $answer = $bridge->ask('/renew', with_session() + ['WS_SESSION_DATA' => SESSION]);
    $new = $answer->header('X-WS-Data');
    assert($answer->body === 'true' && $bridge->sessions() === [$new]);
    assert($bridge->ask('/count', with_session() + ['WS_SESSION_DATA' => $new])->body === '6');
});

test('without SESSION in the configuration, messages are served', function (Bridge $bridge) {
    assert($bridge->ask('/echo/hello', with_session())->body === 'hello');
}, configuration: "['configuration' => ['SESSION' => null]]");

// Validation

function validate(Bridge $bridge, string $cookie, array $more = []): Answer
{
    return $bridge->ask('', ['WS_EVENT' => 'validate', 'HTTP_COOKIE' => $cookie] + $more);
}

test('the validation callback names the user', function (Bridge $bridge) {
    foreach (['7', '0', 'alice', '-1', '9223372036854775807'] as $user) {
        $answer = validate($bridge, "user=$user");
        assert($answer->header('X-WS-User') === $user && $answer->header('Status') === null);
        assert($answer->header('X-WS-Data') === '' && $answer->body === '');
    }
});

test('a visitor is refused, or nobody is let in', function (Bridge $bridge) {
    $refused = validate($bridge, 'user=refused');
    assert($refused->header('Status') === '401' && $refused->header('X-WS-User') === null);
    assert($bridge->hasSaid('validateUserCallback has refused the visitor'));
    $thrown = validate($bridge, 'user=thrown');
    assert($thrown->header('Status') === '503' && $thrown->header('X-WS-User') === null);
    assert($bridge->hasSaid('no visitors from 192.0.2.1:4711'));
    assert(validate($bridge, 'user=exit')->bytes === '');
    $split = validate($bridge, "user=a\rX-WS-User: root");
    assert($split->header('Status') === '503' && !str_contains($split->bytes, 'root'));
});

$statuses = ['null' => 401, "''" => 401, 'false' => 401, 'true' => 503, '1.5' => 503, '[]' => 503];
foreach ($statuses as $value => $status) {
    test("a validation that returns $value is answered with $status", function ($bridge) use ($status) {
        $answer = validate($bridge, 'user=7');
        assert($answer->header('Status') === (string) $status);
        assert($answer->header('X-WS-User') === null);
    }, configuration: <<<PHP
        ['callbacks' => 'default', 'before' => function () {
            CarbonPHP\\Programs\\WebSocket::\$validateUserCallback = fn () => $value;
        }]
        PHP);
}

test('the session that validation opens is passed on', function (Bridge $bridge) {
    $bridge->addSession(SESSION, 'id|i:12;');
    $answer = validate($bridge, 'a=b; PHPSESSID=' . SESSION);
    assert($answer->header('X-WS-User') === '12' && $answer->header('X-WS-Data') === SESSION);
    // A guest gets one of his own, whatever id he asks for, and goes on with it.
    $guest = validate($bridge, 'a=b; PHPSESSID=chosen');
    $id = $guest->header('X-WS-Data');
    assert($guest->header('X-WS-User') === '0' && strlen($id) > 20);
    $sessions = $bridge->sessions();
    sort($sessions);
    $expected = [SESSION, $id];
    sort($expected);
    assert($sessions === $expected);
    assert($bridge->ask('/count', ['HTTP_COOKIE' => 'a=b', 'WS_SESSION_DATA' => $id])->body === '1');
    $again = validate($bridge, 'a=b', ['WS_SESSION_DATA' => $id]);
    assert($again->header('X-WS-Data') === $id && count($bridge->sessions()) === 2);
});

test('the defaults of the original are there', function (Bridge $bridge) {
    $bridge->addSession(SESSION, 'id|s:5:"alice";');
    assert(validate($bridge, 'PHPSESSID=' . SESSION)->header('X-WS-User') === 'alice');
    assert(validate($bridge, 'a=b')->header('X-WS-User') === '0');
    assert($bridge->ask('/echo/hello')->body === 'hello');
}, configuration: "['callbacks' => 'default']");

// Pushes

test('a broadcast goes by the control socket', function (Bridge $bridge) {
    assert($bridge->ask('/broadcast/hello')->body === 'broadcast');
    assert($bridge->asked === [['POST /v1/send', ['to' => ['all' => true], 'text' => 'hello']]]);
});

test('without a control socket, a broadcast goes by the global FIFO', function (Bridge $bridge) {
    mkdir("$bridge->site/tmp/fifo", recursive: true);
    $fifo = make_fifo("$bridge->site/tmp/fifo/global_pipe.fifo");
    assert($bridge->ask('/broadcast/one', ['WS_CONTROL_SOCKET' => ''])->body === 'broadcast');
    $nobody = ['WS_CONTROL_SOCKET' => "$bridge->site/none"];
    assert($bridge->ask('/broadcast/two', $nobody)->body === 'broadcast');
    assert(preg_match('/^one\n.*Pipe:\d+\ntwo\n.*Pipe:\d+\n$/D', stream_get_contents($fifo)) === 1);
    // Not what the server was asked for and has failed to confirm: all would have it twice.
    $bridge->status = 503;
    assert($bridge->ask('/broadcast/three')->body === 'broadcast');
    assert($bridge->hasSaid('cannot send: POST /v1/send: as asked'));
    assert(stream_get_contents($fifo) === '');
});

test('what is written to userSocket is a message to that browser', function (Bridge $bridge) {
    $own = ['connection' => '00000000000000c1'];
    assert($bridge->ask('/self/raw/hello')->body === '5');
    assert($bridge->ask('/self/frame/hello')->body === '7');
    assert($bridge->ask('/self/resource/hello')->body === 'true');
    $text = ['POST /v1/send', ['to' => $own, 'text' => 'hello']];
    assert($bridge->asked === [$text, $text, $text]);
    $bridge->asked = [];
    assert($bridge->ask('/self/binary/hello')->body === 'true');
    assert($bridge->ask('/self/large/0123456789')->body === '1000000');
    assert($bridge->asked[0] === ['POST /v1/send', ['to' => $own, 'base64' => base64_encode('hello')]]);
    // One write is one message.
    assert(count($bridge->asked) === 2 && strlen($bridge->asked[1][1]['text']) === 1_000_000);
});

test('frames are taken apart, whatever else is written is one text', function (Bridge $bridge) {
    $own = ['connection' => '00000000000000c1'];
    assert($bridge->ask('/frames')->body === 'taken apart');
    $expected = [];
    foreach ([0, 1, 125, 126, 65_535, 65_536] as $size) {
        $expected[] = ['POST /v1/send', ['to' => $own, 'text' => str_repeat('x', $size)]];
    }
    // Two frames in one write, a ping, which is the server's, and bytes.
    $expected[] = ['POST /v1/send', ['to' => $own, 'text' => 'a']];
    $expected[] = ['POST /v1/send', ['to' => $own, 'base64' => base64_encode("\xff\0")]];
    $expected[] = ['DELETE /v1/connections/00000000000000c1?code=1000', []];
    // Half a frame is none.
    $expected[] = ['POST /v1/send', ['to' => $own, 'base64' => base64_encode("\x81\x05hell")]];
    assert($bridge->asked === $expected);
});

test('a push that fails is a write that fails, and is logged', function (Bridge $bridge) {
    $bridge->receipt = ['connections' => 0, 'written' => 0, 'queued' => 0, 'dropped' => 0];
    assert($bridge->ask('/self/raw/hello')->body === 'false');
    assert($bridge->ask('/self/resource/hello')->body === 'false');
    assert($bridge->hasSaid('the connection 00000000000000c1 has ended'));
    $bridge->status = 503;
    assert($bridge->ask('/self/raw/hello')->body === 'false');
    assert($bridge->hasSaid('POST /v1/send: as asked'));
    $nobody = ['WS_CONTROL_SOCKET' => "$bridge->site/none"];
    assert($bridge->ask('/self/raw/hello', $nobody)->body === 'false');
    assert($bridge->hasSaid("the control socket $bridge->site/none cannot be written to"));
});

test('what is written to userPipe is in the FIFO of the connection, or run', function (Bridge $bridge) {
    $fifo = make_fifo("$bridge->site/user.fifo");
    $bridge->ask('/self/pipe/hello', ['WS_FIFO' => "$bridge->site/user.fifo"]);
    assert(preg_match('/^\/echo\/hello\n.*Pipe:\d+\n$/D', stream_get_contents($fifo)) === 1);
    assert($bridge->asked === []);
    $bridge->ask('/self/pipe/hello');
    $own = ['connection' => '00000000000000c1'];
    assert($bridge->asked === [['POST /v1/run', ['to' => $own, 'uri' => '/echo/hello']]]);
});

test('a user is notified by the FIFOs of his connections', function (Bridge $bridge) {
    mkdir("$bridge->site/tmp/fifo", recursive: true);
    $names = ['7:127_0_0_1:1', '7:127_0_0_1:2', '70:127_0_0_1:3'];
    $fifos = array_map(fn ($name) => make_fifo("$bridge->site/tmp/fifo/$name.fifo"), $names);
    assert($bridge->ask('/notify/7/hello')->body === 'notified');
    $read = array_map(fn ($fifo) => str_starts_with(stream_get_contents($fifo), '/echo/hello'), $fifos);
    assert($read === [true, true, false]);
});

test('who is connected is told to an application that asks for it', function (Bridge $bridge) {
    $bridge->connections = [
        ['id' => '00000000000000c1', 'user' => '7', 'ip' => '192.0.2.1', 'port' => 4711],
        ['id' => '00000000000000c2', 'user' => '8', 'ip' => '::1', 'port' => 1],
        ['id' => '00000000000000c3', 'user' => '9', 'ip' => null, 'port' => null],
    ];
    [$relationships, $sockets, $resources] = $bridge->ask('/users')->json();
    assert($relationships === [
        '7:192.0.2.1:4711' => ['7', true, true],
        '8:::1:1' => ['8', true, true],
        '9::00000000000000c3' => ['9', true, true],
    ]);
    assert([$sockets, $resources] === [3, 7]);
    assert($bridge->asked === [['GET /v1/connections', []]]);
}, ['WS_CARBONPHP_CONNECTIONS' => 'always']);

test('who is connected is not asked for by an application that does not', function (Bridge $bridge) {
    assert($bridge->ask('/users')->json() === [[], 0, 0]);
    assert($bridge->asked === []);
});

test('an application that mentions the lists has them', function (Bridge $bridge) {
    $bridge->connections = [['id' => 'a', 'user' => '8', 'ip' => '::1', 'port' => 1]];
    assert($bridge->ask('/users')->json()[1] === 1);
}, configuration: "[ /* userConnectionRelationships */ ]");

// The same code in a web request

test('a web request has the original classes, and reaches the browsers', function (Bridge $bridge) {
    mkdir("$bridge->site/tmp/fifo", recursive: true);
    $all = make_fifo("$bridge->site/tmp/fifo/global_pipe.fifo");
    $one = make_fifo("$bridge->site/tmp/fifo/12:127_0_0_1:1.fifo");
    $web = $bridge->startWeb();
    $class = file_get_contents("$web/class");
    assert(strtolower(basename(dirname($class))) === 'programs' && basename($class) === 'WebSocket.php');
    assert(basename($bridge->ask('/class')->body) !== 'WebSocket.php');
    assert(file_get_contents("$web/broadcast/hello") === 'broadcast');
    assert(str_starts_with(stream_get_contents($all), "hello\nCarbonPHP\\Abstracts\\Pipe:"));
    assert(file_get_contents("$web/notify/12/hello") === 'notified');
    assert(str_starts_with(stream_get_contents($one), "/echo/hello\nCarbonPHP\\Abstracts\\Pipe:"));
    // Who has logged in is the user of his connections.
    assert(file_get_contents("$web/login/12") === 'logged in as 12');
    preg_match('/^Set-Cookie: PHPSESSID=([^;]+)/m', implode("\n", $http_response_header), $cookie);
    $id = $cookie[1];
    $answer = validate($bridge, "PHPSESSID=$id");
    assert($answer->header('X-WS-User') === '12' && $answer->header('X-WS-Data') === $id);
    $session = $bridge->ask('/whoami', ['HTTP_COOKIE' => "PHPSESSID=$id"])->json()['session'];
    assert($session === ['id' => $id, 'user' => '12']);
});

// The database

$programs = ['/usr/sbin/mariadbd', '/usr/bin/mariadb-install-db'];
if (array_filter($programs, is_executable(...)) !== $programs || !extension_loaded('pdo_mysql')) {
    fwrite(STDERR, "skipped: the bridge and databases; there is no MariaDB, or no pdo_mysql\n");
} else {
    require __DIR__ . '/carbonphp/mariadb.php';

    $database = new Mariadb();
    $configuration = <<<PHP
        [
            'configuration' => ['DATABASE' => [
                'DB_HOST' => 'localhost;unix_socket=$database->socket', 'DB_NAME' => 'test',
                'DB_USER' => 'root', 'DB_PASS' => '',
            ]],
            'booted' => fn () => CarbonPHP\Database::database(false)->query('SELECT 1'),
        ]
        PHP;
    foreach (['kill', 'normal'] as $end) {
        $claim = "each message has a connection to the database of its own ($end)";
        test($claim, function (Bridge $bridge) use ($database) {
            $areThere = fn (int $count) => eventually(
                fn () => $database->ask("SHOW STATUS LIKE 'Threads_connected'") === (string) $count,
            );
            // The one that was opened while the application booted is closed.
            assert($bridge->ask('/echo/hello')->body === 'hello');
            assert($areThere(1));
            $aborted = $database->ask("SHOW STATUS LIKE 'Aborted_clients'");
            $streams = array_map(fn () => $bridge->begin('/database/50'), range(1, 8));
            $ids = array_map(fn ($stream) => (new Answer($bridge->await($stream)))->body, $streams);
            assert(count(array_unique(array_filter($ids, is_numeric(...)))) === 8);
            // Nor do they leave theirs to be found dead.
            assert($areThere(1));
            assert($database->ask("SHOW STATUS LIKE 'Aborted_clients'") === $aborted);
            // One that is killed in the middle costs the others nothing.
            $killed = $bridge->begin('/database/60000');
            $other = $bridge->begin('/database/300');
            assert($areThere(3));
            fclose($killed);
            assert(is_numeric((new Answer($bridge->await($other)))->body));
            assert(is_numeric($bridge->ask('/database/0')->body));
        }, ['WS_FORK_EXIT' => $end], $configuration);
    }
}

// The fork server

test('requests that are cut anywhere are answered', function (Bridge $bridge) {
    $request = request('/echo/hello', $bridge->variables());
    mt_srand(1);
    for ($round = 0; $round < 40; $round++) {
        $stream = $bridge->connect();
        for ($at = 0; $at < strlen($request); $at += $size) {
            $size = mt_rand(1, $round < 2 ? 2 : 300);
            fwrite_whole($stream, substr($request, $at, $size));
        }
        assert((new Answer($bridge->await($stream)))->body === 'hello');
    }
    // Cut off, they run nothing, and what is none is refused.
    foreach ([substr($request, 0, -1), 'GET / HTTP/1.1', "9:CONTENT\0,", ''] as $bytes) {
        $stream = $bridge->connect();
        fwrite($stream, $bytes);
        stream_socket_shutdown($stream, STREAM_SHUT_WR);
        assert($bridge->await($stream) === '');
    }
    assert($bridge->ask('/echo/next')->body === 'next');
});

test('outputs of any size arrive whole', function (Bridge $bridge) {
    foreach ([1, 8191, 8192, 8193, 65_536, 1_000_000, 8_000_000] as $size) {
        assert($bridge->ask("/bytes/$size")->body === str_repeat('x', $size));
        assert($bridge->ask("/binary/$size")->body === str_repeat("\xff", $size));
    }
});

test('a thousand messages, sixteen at once, have their own answers', function (Bridge $bridge) {
    $bridge->addSession(SESSION, '');
    for ($round = 0; $round < 1000 / 16; $round++) {
        $streams = array_map(fn ($at) => $bridge->begin("/echo/$round-$at"), range(1, 16));
        foreach ($streams as $index => $stream) {
            $at = $index + 1;
            assert((new Answer($bridge->await($stream)))->body === "$round-$at");
        }
    }
    assert($bridge->sessions() === [SESSION]);
    assert(eventually(fn () => children_of($bridge->pid()) === []));
});

test('a hang-up kills what is run for it', function (Bridge $bridge) {
    $stream = $bridge->begin('/slow/600000');
    assert(eventually(fn () => count(children_of($bridge->pid())) === 1));
    fclose($stream);
    assert(eventually(fn () => children_of($bridge->pid()) === []));
});

test('SIGTERM ends it after what it has accepted', function (Bridge $bridge) {
    $stream = $bridge->begin('/slow/300');
    assert(eventually(fn () => count(children_of($bridge->pid())) === 1));
    posix_kill($bridge->pid(), SIGTERM);
    assert((new Answer($bridge->await($stream)))->body === 'slept');
    assert(eventually(fn () => !is_running($bridge->pid())));
});

test('it ends like a program that has done its work', function (Bridge $bridge) {
    assert($bridge->ask('/later/mark')->body === 'at the end');
    assert(eventually(fn () => is_file("$bridge->site/mark")));
}, ['WS_FORK_EXIT' => 'normal']);

test('what has answered finishes before it ends, though its group is asked to end', function (Bridge $bridge) {
    assert($bridge->ask('/lingering/mark')->body === 'at the end');
    foreach (children_of($bridge->pid()) as $child) {
        posix_kill((int) $child, SIGTERM);
    }
    assert(eventually(fn () => is_file("$bridge->site/mark")));
    assert(eventually(fn () => children_of($bridge->pid()) === []));
}, ['WS_FORK_EXIT' => 'kill']);

/** @return resource */
function make_fifo(string $path): mixed
{
    posix_mkfifo($path, 0600);
    $fifo = fopen($path, 'r+');
    stream_set_blocking($fifo, false);
    return $fifo;
}

/** @return list<string> */
function children_of(int $pid): array
{
    $children = @file_get_contents("/proc/$pid/task/$pid/children");
    return array_filter(explode(' ', trim((string) $children)));
}

function is_running(int $pid): bool
{
    $status = @file_get_contents("/proc/$pid/status");
    return $status !== false && !preg_match('/^State:\s+Z/m', $status);
}
