<?php

namespace CarbonPHP;

use CarbonPHP\Error\ThrowableHandler;
use CarbonPHP\Interfaces\iCommand;
use CarbonPHP\Programs\WebSocket;

/** Boots an application, and runs it, or a program of the command line. */
class CarbonPHP
{
    public const CARBON_ROOT = __DIR__ . DIRECTORY_SEPARATOR;

    public const SITE = 'SITE';
    public const PROGRAMS = 'PROGRAMS';
    public const IP_TEST = 'IP_TEST';
    public const TIMEZONE = 'TIMEZONE';
    public const SOCKET = 'SOCKET';
    public const PORT = 'PORT';
    public const HOST = 'HOST';
    public const SSL = 'SSL';
    public const KEY = 'KEY';
    public const CERT = 'CERT';
    public const DEV = 'DEV';
    public const SESSION = 'SESSION';
    public const REMOTE = 'REMOTE';
    public const PATH = 'PATH';
    public const ERROR = 'ERROR';
    public const LOCATION = 'LOCATION';
    public const SHOW = 'SHOW';
    public const DATABASE = 'DATABASE';
    public const DB_HOST = 'DB_HOST';
    public const DB_NAME = 'DB_NAME';
    public const DB_USER = 'DB_USER';
    public const DB_PASS = 'DB_PASS';

    public static string $app_root;
    public static array $configuration = [];
    public static ?Application $application = null;
    public static bool $socket = false;
    public static bool $cli = true;
    public static string $server_ip = '127.0.0.1';
    public static ?string $user_ip = null;
    public static string $protocol;
    private static ?iCommand $program = null;
    private static string $class;

    public function __construct(string $class, string $root)
    {
        self::$app_root = rtrim($root, '/') . '/';
        self::$class = $class;
        self::$cli = PHP_SAPI === 'cli';
        chdir(self::$app_root);
        require_once __DIR__ . '/Functions.php';
        self::$configuration = $class::configuration();
        ini_set('display_errors', '1');
        if (isset(self::$configuration['ERROR'])) {
            ThrowableHandler::start();
        }
        $arguments = array_slice($_SERVER['argv'] ?? [], 1);
        if (self::$cli && strtolower(array_shift($arguments) ?? '') === 'websocket') {
            self::$program = new WebSocket([self::$configuration, $arguments]);
        }
        $port = $_SERVER['SERVER_PORT'] ?? 80;
        self::$protocol = $port === WebSocket::$port ? 'wss://' : 'http://';
        if (isset(self::$configuration['SESSION'])) {
            $path = self::$configuration['SESSION']['PATH'] ?? self::$app_root . 'tmp/sessions/';
            is_dir($path) || mkdir($path, 0755, true);
            session_save_path($path);
            new Session(self::$configuration['SESSION']['REMOTE'] ?? false);
        }
    }

    public function __invoke(): bool
    {
        self::$application = new (self::$class)();
        if (self::$program !== null) {
            self::$program->run($_SERVER['argv']);
            self::$program->cleanUp();
            return true;
        }
        return self::$cli || self::startApplication() !== false;
    }

    /** Only once: the application is gone afterwards. */
    public static function startApplication(string $uri = ''): ?bool
    {
        if (self::$application === null) {
            throw new \TypeError('there is no application any more');
        }
        $application = self::$application;
        self::$application = null;
        $_SESSION['id'] ??= 0;
        $uri = $uri === '' ? Route::$uri : $uri;
        $_SERVER['REQUEST_URI'] = $uri;
        Route::changeURI($uri);
        return $application->startApplication($uri) ? null : false;
    }
}
