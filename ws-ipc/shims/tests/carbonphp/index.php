<?php

// An application for CarbonPHP, with which the bridge is tested: what it does is in the routes.
// configuration.php beside it, if there is one, returns what a test wants different.

use CarbonPHP\Abstracts\Pipe;
use CarbonPHP\Application;
use CarbonPHP\CarbonPHP;
use CarbonPHP\Database;
use CarbonPHP\Interfaces\iConfig;
use CarbonPHP\Programs\WebSocket;
use CarbonPHP\Session;
use CarbonPHP\WebSocket\WsUserConnectionRelationship;

require __DIR__ . '/vendor/autoload.php';

final class Site extends Application implements iConfig
{
    /** Of the message. */
    public static ?WsUserConnectionRelationship $information = null;

    /** What tests want different. */
    public static function wanted(string $key): mixed
    {
        static $wanted;
        $file = __DIR__ . '/configuration.php';
        $wanted ??= is_file($file) ? require $file : [];
        return $wanted[$key] ?? null;
    }

    public function __construct()
    {
        parent::__construct();
        (self::wanted('booted') ?? fn () => null)();
    }

    public static function configuration(): array
    {
        $configuration = [
            CarbonPHP::SITE => [
                CarbonPHP::PROGRAMS => [],
                CarbonPHP::IP_TEST => false,
                CarbonPHP::TIMEZONE => 'UTC',
            ],
            CarbonPHP::SOCKET => [CarbonPHP::PORT => 8888],
            CarbonPHP::SESSION => [CarbonPHP::REMOTE => false],
            CarbonPHP::ERROR => [
                CarbonPHP::LOCATION => __DIR__ . '/logs/',
                CarbonPHP::SHOW => false,
            ],
        ];
        return array_filter(array_replace($configuration, self::wanted('configuration') ?? []));
    }

    public function defaultRoute(): void
    {
        echo 'This is the page of the site.';
    }

    public function startApplication(string $uri): bool
    {
        return self::talk() || self::push() || self::remember() || self::misbehave();
    }

    private static function talk(): bool
    {
        return self::regexMatch('#^echo/(.*)$#s', fn ($text) => print $text)
            || self::regexMatch('#^bytes/(\d+)$#', fn ($count) => print str_repeat('x', $count))
            || self::regexMatch('#^binary/(\d+)$#', fn ($count) => print str_repeat("\xff", $count))
            || self::regexMatch('#^spaces$#', fn () => print " \n padded \n ")
            || self::regexMatch('#^blank$#', fn () => print " \n ")
            || self::regexMatch('#^zero$#', fn () => print '0')
            || self::regexMatch('#^silent$#', fn () => null)
            || self::regexMatch('#^flushed$#', function () {
                echo 'first, ';
                ob_flush();
                flush();
                echo 'second';
            })
            || self::regexMatch('#^slow/(\d+)$#', function ($milliseconds) {
                usleep($milliseconds * 1000);
                echo 'slept';
            })
            || self::regexMatch('#^whoami$#', fn () => print json_encode(self::describe()));
    }

    private static function push(): bool
    {
        return self::regexMatch('#^broadcast/(.*)$#', function ($text) {
            WebSocket::sendToAllWebsSocketConnections($text);
            echo 'broadcast';
        })
            || self::regexMatch('#^notify/([^/]+)/(.*)$#', function ($user, $text) {
                Pipe::sendToFifoChannel("$user:", "/echo/$text");
                echo 'notified';
            })
            || self::regexMatch('#^self/(\w+)/(.*)$#', function ($way, $text) {
                $socket = self::$information->userSocket;
                $pipe = self::$information->userPipe;
                echo json_encode(match ($way) {
                    'raw' => fwrite($socket, $text),
                    'frame' => fwrite($socket, WebSocket::encode($text)),
                    'binary' => WebSocket::sendToResource($text, $socket, WebSocket::BINARY),
                    'large' => fwrite($socket, str_repeat($text, 100_000)),
                    'pipe' => fwrite($pipe, "/echo/$text" . Pipe::$fifoDelimiter),
                    default => WebSocket::sendToResource($text, $socket),
                });
            })
            || self::regexMatch('#^frames$#', function () {
                $socket = self::$information->userSocket;
                foreach ([0, 1, 125, 126, 65_535, 65_536] as $size) {
                    fwrite($socket, WebSocket::encode(str_repeat('x', $size)));
                }
                $bytes = WebSocket::encode("\xff\0", WebSocket::BINARY);
                $ping = WebSocket::encode('', WebSocket::PING);
                fwrite($socket, WebSocket::encode('a') . $ping . $bytes);
                fwrite($socket, WebSocket::encode('', WebSocket::CLOSE));
                fwrite($socket, substr(WebSocket::encode('hello'), 0, -1));
                echo 'taken apart';
            })
            || self::regexMatch('#^users$#', function () {
                // Written so that the bridge does not find the names in this file.
                $relationships = WebSocket::${'userConnection' . 'Relationships'};
                $sockets = WebSocket::${'userResource' . 'Connections'};
                $all = WebSocket::${'allConnected' . 'Resources'};
                $isThere = is_resource(...);
                $of = fn ($it) => [$it->userId, $isThere($it->userSocket), $isThere($it->userPipe)];
                echo json_encode([array_map($of, $relationships), count($sockets), count($all)]);
            });
    }

    private static function remember(): bool
    {
        return self::regexMatch('#^login/(\w+)$#', function ($user) {
            $_SESSION['id'] = $user;
            echo "logged in as $user";
        })
            || self::regexMatch('#^count$#', function () {
                $_SESSION['count'] = ($_SESSION['count'] ?? 0) + 1;
                echo $_SESSION['count'];
            })
            || self::regexMatch('#^renew$#', function () {
                echo json_encode(session_regenerate_id(true));
            })
            || self::regexMatch('#^logout$#', fn () => print json_encode(session_destroy()))
            || self::regexMatch('#^database/(\d+)$#', function ($milliseconds) {
                $seconds = $milliseconds / 1000;
                $database = Database::database(false);
                echo $database->query("SELECT CONNECTION_ID() + SLEEP($seconds)")->fetchColumn();
            });
    }

    private static function misbehave(): bool
    {
        return self::regexMatch('#^exit$#', function () {
            echo 'half';
            exit(0);
        })
            || self::regexMatch('#^warn$#', function () {
                trigger_error('a warning as asked', E_USER_WARNING);
                echo 'went on';
            })
            || self::regexMatch('#^deprecated$#', function () {
                echo 'half';
                trigger_error('deprecated as asked', E_USER_DEPRECATED);
                echo 'went on';
            })
            || self::regexMatch('#^later/(\w+)$#', function ($name) {
                register_shutdown_function(fn () => file_put_contents(__DIR__ . "/$name", 'done'));
                echo 'at the end';
            })
            || self::regexMatch('#^fatal$#', fn () => print strlen(str_repeat('x', 5 << 30)))
            || self::regexMatch('#^lingering/(\w+)$#', function ($name) {
                $finish = fn () => file_put_contents(__DIR__ . "/$name", 'done');
                register_shutdown_function(function () use ($finish) {
                    usleep(300_000);
                    register_shutdown_function($finish);
                });
                echo 'at the end';
            })
            || self::regexMatch('#^umask$#', fn () => print decoct(umask()))
            || self::regexMatch('#^random$#', fn () => print mt_rand())
            || self::regexMatch('#^class$#', function () {
                echo (new ReflectionClass(WebSocket::class))->getFileName();
            })
            || self::regexMatch('#^pid$#', fn () => print getmypid())
            || self::regexMatch('#^killed$#', fn () => posix_kill(getmypid(), 9));
    }

    /** @return array<string, mixed> what a message can tell of its connection */
    private static function describe(): array
    {
        $it = self::$information;
        $server = [
            'HTTP_COOKIE', 'REMOTE_ADDR', 'REQUEST_URI', 'SERVER_PORT', 'User_Agent', 'Host',
        ];
        return [
            'server' => array_intersect_key($_SERVER, array_flip($server)),
            'cookie' => $_COOKIE,
            'session' => ['id' => session_id(), 'user' => $_SESSION['id'] ?? null],
            'user_ip' => CarbonPHP::$user_ip,
            'is_socket' => CarbonPHP::$socket,
            'is_cli' => CarbonPHP::$cli,
            'protocol' => CarbonPHP::$protocol,
            'information' => $it ? [
                'class' => $it::class,
                'userId' => $it->userId,
                'userPipe' => is_resource($it->userPipe),
                'userSocket' => is_resource($it->userSocket),
                'sessionId' => $it->sessionId,
                'headers' => $it->headers,
                'port' => $it->port,
                'ip' => $it->ip,
            ] : null,
        ];
    }
}

if (Site::wanted('callbacks') !== 'default') {
    WebSocket::$validateUserCallback = static function (string $ip, string $port): int|string|bool {
        preg_match('/\buser=([^;]*)/', $_SERVER['HTTP_COOKIE'], $user);
        switch ($user[1] ?? '') {
            case 'refused':
                return false;
            case 'thrown':
                throw new DomainException("no visitors from $ip:$port");
            case 'exit':
                exit(0);
            case '':
                new Session();
                return $_SESSION['id'];
            default:
                return ctype_digit($user[1]) ? (int) $user[1] : $user[1];
        }
    };
    WebSocket::$startApplicationCallback = static function (string $uri, $information): void {
        Site::$information = $information;
        if ($uri === '/throw') {
            throw new DomainException('thrown as asked');
        }
        startApplication($uri);
    };
}

(Site::wanted('before') ?? fn () => null)();

(new CarbonPHP(Site::class, __DIR__ . '/'))();
