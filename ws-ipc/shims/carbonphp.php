<?php

/*
 * Runs a CarbonPHP application for ws, as it is:
 *
 *     php -d opcache.enable_cli=1 -d opcache.huge_code_pages=1 \
 *         -d auto_prepend_file=carbonphp.php index.php websocket
 *
 * CarbonPHP boots by the application's own index.php, takes the class that is declared here for its
 * CarbonPHP\Programs\WebSocket, and calls run(). There this process becomes a fork server: it has
 * the application loaded and answers each message, and each validation of a visitor, in a process
 * of its own, by the application's $startApplicationCallback and $validateUserCallback. Sockets,
 * handshakes, frames, FIFOs and users are the server's. A web request, which knows nothing of this
 * file, loads the original classes, and reaches the browsers by the FIFOs as ever.
 *
 * Or php-fpm runs this file, for each request anew: SCRIPT_FILENAME is its path, WS_CARBONPHP_INDEX
 * that of the application's index.php. The application boots from its beginning then and answers
 * one request, by the same callbacks. For CarbonPHP it is the command line all the same; PHP_SAPI is
 * "fpm-fcgi" for the application, and what CarbonPHP logs while it boots is dropped, unless the
 * application ends there.
 *
 * What an application may use is here: the static properties, constants and callbacks;
 * sendToAllWebsSocketConnections(), sendToResource(), forkStartApplication(), readFromFifo(),
 * encode(); in what the callback gets, userPipe and userSocket as handles that can be written to.
 * What is not here, since there is no socket to do it with: handshake() and decode(); what reads
 * from userSocket, or takes it for a socket (stream_select(), socket_import_stream()).
 * updateHtaccessWebSocketPort() writes nothing.
 *
 * Different from the original, on purpose:
 *     - A message has the cookies of its own connection in $_SERVER['HTTP_COOKIE'] and $_COOKIE,
 *       its address in $_SERVER['REMOTE_ADDR'], and the visitor's own session, which the original
 *       looks for under the user id. sessionId is the id of that session, if there is one.
 *     - The parent never runs a callback, and nothing is written to .htaccess.
 *     - A text that is JSON is a URI like any other. User ids may be strings; null, false and ''
 *       refuse the visitor, and so does an exception.
 *     - The umask stays as it is, so that reports and sessions are not writable by everybody.
 *
 * Environment, or parameters of php-fpm's; a fork server has fork.php's WS_FORK_EXIT, too:
 *     WS_CARBONPHP_REPORT=FILE      Writes what the application configures to FILE, as JSON, and
 *                                   ends.
 *     WS_CARBONPHP_EMPTY=none       Answers with nothing where the original sends a text that says
 *                                   that there was no output.
 *     WS_CARBONPHP_CONNECTIONS=...  Whether $userConnectionRelationships, $allConnectedResources
 *                                   and $userResourceConnections say who is connected: "always",
 *                                   "never", or "auto", if the application mentions one of them,
 *                                   which php-fpm is "never". It costs a request to the server for
 *                                   each message.
 *
 * With opcache, which all processes share, a message costs a third less: none compiles what was
 * not loaded before, and PHP's own code is on pages that need not be mapped anew.
 *
 * Connections to a database that CarbonPHP has opened while it booted are closed before the first
 * fork. Others are shared by all processes, which no database stands: open them in the callback.
 *
 * Needs PHP 8.2; for the fork server with pcntl, posix and sockets.
 */

declare(strict_types=1);

namespace ws;

require __DIR__ . '/fork.php';

namespace CarbonPHP;

if (\PHP_SAPI !== 'cli') {
    // What CarbonPHP asks whether it is on the command line: names without a namespace are looked
    // for in that of who says them, before PHP's own are.
    \define('CarbonPHP\PHP_SAPI', 'cli');
    \define('CarbonPHP\Error\PHP_SAPI', 'cli');
}

namespace CarbonPHP\Abstracts;

use ws\carbonphp as bridge;

if (\PHP_SAPI !== 'cli') {
    /** In the same way ColorCode is silent while it would say for each message that it boots. */
    function error_log(string $message, mixed ...$more): bool
    {
        if (bridge\Application::$isLoaded) {
            return \error_log($message, ...$more);
        }
        bridge\FpmRequest::$saidAtBoot[] = $message;
        return true;
    }
}

namespace CarbonPHP\Interfaces;

/** A program of CarbonPHP's command line. */
interface iCommand
{
    public static function description(): string;
    public function usage(): void;
    public function run(array $argv): void;
    public function cleanUp(): void;
}

namespace CarbonPHP\WebSocket;

use ws\carbonphp as bridge;

/** Frames, as far as an application sees them. */
abstract class WsBinaryStreams
{
    /** @var ?resource only says, by not being null, that there are connections to send to */
    public static mixed $socket = null;
    public static int $port = 8888;
    public static bool $ssl = false;
    public static string $host = 'localhost';
    public static string $cert = '/cert.pem';
    public static string $pass = 'Smokey';

    public const CONTINUE = 0x0;
    public const TEXT = 0x1;
    public const BINARY = 0x2;
    public const CLOSE = 0x8;
    public const PING = 0x9;
    public const PONG = 0xa;
    public const CLOSE_DATA_FRAME = 0x88;

    /** Makes a frame, which may be written to a userSocket. */
    public static function encode($message, $opCode = self::TEXT): string
    {
        $message = is_string($message) ? $message : json_encode($message);
        $length = strlen($message);
        return chr(0x80 | $opCode) . match (true) {
            $length <= 125 => chr($length),
            $length <= 0xffff => chr(126) . pack('n', $length),
            default => chr(127) . pack('J', $length),
        } . $message;
    }
}

/** What sends and runs. */
abstract class WsFileStreams extends WsBinaryStreams
{
    /** @var list<resource> the userSocket of each connection, if it is asked for */
    public static array $userResourceConnections = [];

    /** Sends to the browser whose userSocket it is; false, and a line in the log, if that fails. */
    public static function sendToResource(
        string $data,
        &$connection,
        int $opCode = self::TEXT,
    ): bool {
        $stream = bridge\ConnectionStream::of($connection);
        if ($stream === null) {
            bridge\complain('sendToResource: this is not the userSocket of a connection');
            return false;
        }
        return $stream->send($data, $opCode);
    }

    /** Sends to every browser: by the control socket if it may be used, else by the global FIFO. */
    public static function sendToAllWebsSocketConnections(string $data, $opCode = self::TEXT): void
    {
        if (bridge\Control::isThere()) {
            bridge\send(['all' => true], $data, (int) $opCode);
        } else {
            \CarbonPHP\Abstracts\Pipe::sendToFifoChannel('global_pipe', $data);
        }
    }

    /** Has the server run a URI as the user of a connection, and send the answer there. */
    public static function forkStartApplication(
        string $uri,
        WsUserConnectionRelationship $information,
        &$connection,
    ): void {
        $stream = bridge\ConnectionStream::of($connection);
        if ($stream === null) {
            bridge\complain('forkStartApplication: this is not the userSocket of a connection');
            return;
        }
        $stream->run($uri);
    }

    /** Calls for each record that waits in a FIFO. */
    public static function readFromFifo(&$fifoFile, callable $handlePipeInfo): void
    {
        $data = (string) stream_get_contents($fifoFile);
        foreach (explode(\CarbonPHP\Abstracts\Pipe::$fifoDelimiter, $data) as $record) {
            if (!empty($record)) {
                $handlePipeInfo($record);
            }
        }
    }
}

namespace CarbonPHP\Programs;

use CarbonPHP\CarbonPHP;
use CarbonPHP\Interfaces\iCommand;
use CarbonPHP\WebSocket\WsFileStreams;
use ws\carbonphp as bridge;

/** The program `websocket` of CarbonPHP's command line. */
class WebSocket extends WsFileStreams implements iCommand
{
    public static bool $verifyIP = true;
    public static int $streamSelectSeconds = 10;
    /** @var ?callable called with the URI and the WsUserConnectionRelationship */
    public static mixed $startApplicationCallback = null;
    /** @var ?callable called with address and port, returns the user id */
    public static mixed $validateUserCallback = null;
    protected static array $applicationConfiguration = [];
    /** @var list<resource> every userSocket and userPipe, if they are asked for */
    public static array $allConnectedResources = [];
    /** @var array<string, \CarbonPHP\WebSocket\WsUserConnectionRelationship> by user:ip:port */
    public static array $userConnectionRelationships = [];
    /** @var ?resource the global FIFO, if there is one */
    public static mixed $globalPipeFifo = null;
    public static bool $autoAssignOpenPorts = false;

    public static function description(): string
    {
        return 'Start a WebSocket Server. This is a single or multi threaded server capable.';
    }

    /** @param array{array, array} $config the configuration; the arguments are the server's */
    public function __construct($config)
    {
        self::$applicationConfiguration = $config[0];
        bridge\be_as_in_the_original($config[0]);
    }

    public function run(array $argv): void
    {
        bridge\serve(self::$applicationConfiguration);
    }

    public static function handleAllResourceStreamSelectOnSingleThread(): never
    {
        bridge\serve(self::$applicationConfiguration);
    }

    /** The block for Apache is in the documentation: a server better cannot write what it obeys. */
    public static function updateHtaccessWebSocketPort(
        int $port,
        string $path = 'carbonorm/websocket',
    ): void {
        bridge\complain('updateHtaccessWebSocketPort: .htaccess is left as it is');
    }

    public function cleanUp(): void
    {
    }

    public function usage(): never
    {
        bridge\complain('usage: ws serve --carbonphp index.php');
        exit(1);
    }
}

namespace ws\carbonphp;

use CarbonPHP\Abstracts\Pipe;
use CarbonPHP\Abstracts\Serialized;
use CarbonPHP\CarbonPHP;
use CarbonPHP\Database;
use CarbonPHP\Enums\ThrowableReportDisplay;
use CarbonPHP\Error\ThrowableHandler;
use CarbonPHP\Programs\WebSocket;
use CarbonPHP\Request;
use CarbonPHP\Route;
use CarbonPHP\Session;
use CarbonPHP\WebSocket\WsUserConnectionRelationship;
use ws\Log;
use ws\Stdin;

const CONTROL_TIMEOUT = 10;
/** What is written to a userSocket at once is one message up to this size. */
const MAX_WRITE = 64 << 20;
const ID_CHARACTERS = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789,-';
const NO_OUTPUT = 'A route was matched but did not signal any output to stdout.';
const NO_ROUTE = "No route was matched in the Application for startApplication(\$uri = %s)."
    . " Please remember \n                    your sockets application is in cached state and must"
    . ' be restart the socket server to see changes.';

/** What the application may mention to be told who is connected. */
const LISTS = '/userConnectionRelationships|allConnectedResources|userResourceConnections/';

/** Says something in the log. */
function complain(string $text): void
{
    \ws\say(Log::$name . ": $text");
}

/** As "@", which is not silence to each handler of errors that an application has. */
function silently(callable $act): mixed
{
    set_error_handler(fn () => true);
    try {
        return $act();
    } finally {
        restore_error_handler();
    }
}

/** Whether this answers all requests, not one. */
function is_fork_server(): bool
{
    return \PHP_SAPI === 'cli';
}

/** Prepares this process for an application that is not loaded yet. */
function begin(): void
{
    Log::$name = 'carbonphp.php';
    stream_wrapper_register('ws-connection', ConnectionStream::class);
    stream_wrapper_register('ws-log', LogStream::class);
    if (is_fork_server()) {
        // CarbonPHP closes STDERR before it exits.
        Log::$stream = fopen('php://stderr', 'w') ?: null;
        require_extensions(['pcntl', 'posix', 'sockets']);
    } else {
        Log::$stream = fopen('ws-log://', 'w') ?: null;
        FpmRequest::begin();
    }
    // PHP itself would print why it ends, with an answer that is dropped.
    ini_set('log_errors', '1');
    // What is printed now is for nobody, and once it were printed, no session could begin.
    ob_start(function (string $printed) {
        // A mark or a blank line before "<?php" would be a line of the log for each message.
        if (Log::$stream && trim($printed, "\u{FEFF} \t\r\n") !== '') {
            fwrite(Log::$stream, $printed);
        }
        return '';
    });
    $pid = getmypid();
    register_shutdown_function(function () use ($pid) {
        if (!Application::$isLoaded && getmypid() === $pid) {
            // Of that, it is the end which says why.
            array_map(\ws\say(...), array_slice(FpmRequest::$saidAtBoot, -8));
            complain('the application has ended before CarbonPHP ran its program websocket');
        }
    });
}

/** @param list<string> $names */
function require_extensions(array $names): void
{
    $missing = array_filter($names, fn ($name) => !extension_loaded($name));
    if ($missing) {
        complain('PHP lacks ' . implode(', ', $missing));
        exit(1);
    }
}

/** Sets what the constructor of the original sets, but for sockets, signals and .htaccess. */
function be_as_in_the_original(array $configuration): void
{
    ThrowableHandler::$storeReport = true;
    ThrowableHandler::$throwableReportDisplay = ThrowableReportDisplay::CLI_MINIMAL;
    CarbonPHP::$socket = true;
    ini_set('memory_limit', '4G');
    error_reporting(E_ALL);
    set_time_limit(0);
    ob_implicit_flush();
    WebSocket::$port = (int) ($configuration['SOCKET']['PORT'] ?? WebSocket::$port);
    WebSocket::$host = (string) ($configuration['SOCKET']['HOST'] ?? WebSocket::$host);
    // CarbonPHP finds out by this that its protocol is "wss://".
    $_SERVER['SERVER_PORT'] = &WebSocket::$port;
}

/** What is known of the application once it is loaded. */
final class Application
{
    public static bool $isLoaded = false;
    public static bool $wantsLists = false;
    public static bool $sendsNothing = false;
    /** The variables of the process, which those of a request do not replace. */
    public static array $process = [];
}

/** Answers requests from now on, or reports what the application configures. */
function serve(array $configuration): never
{
    Application::$isLoaded = true;
    if (session_status() === PHP_SESSION_ACTIVE) {
        session_write_close();
    }
    leave_database();
    declare_relationship();
    // Each message would load them anew.
    silently(fn () => array_map(class_exists(...), [Request::class, Serialized::class]));
    $report = getenv('WS_CARBONPHP_REPORT');
    if ($report !== false && $report !== '') {
        $json = json_encode(describe($configuration), JSON_THROW_ON_ERROR | JSON_UNESCAPED_SLASHES);
        $written = file_put_contents($report, $json);
        exit($written === strlen($json) ? 0 : 1);
    }
    Application::$wantsLists = match (getenv('WS_CARBONPHP_CONNECTIONS')) {
        'always' => true,
        'never' => false,
        default => is_fork_server() && mentions_lists(),
    };
    Application::$sendsNothing = getenv('WS_CARBONPHP_EMPTY') === 'none';
    Application::$process = array_intersect_key($_SERVER, array_flip([
        'SCRIPT_NAME', 'SCRIPT_FILENAME', 'PHP_SELF', 'PATH_TRANSLATED', 'DOCUMENT_ROOT',
    ]));
    WebSocket::$socket = fopen('php://memory', 'r');
    while (ob_get_level() > 0) {
        ob_end_flush();
    }
    \ws\drop_answers_of_exits();
    if (is_fork_server()) {
        array_map(complain(...), shared_connections());
        \ws\serve_by_forks(Stdin::takeListener(), answer(...));
    } else {
        FpmRequest::answer();
    }
    exit(0);
}

/** A connection that two processes use is broken for both; each is to open one of its own. */
function leave_database(): void
{
    Database::close();
    Database::close(true);
    if (method_exists(Database::class, 'setPdoOptions') && extension_loaded('pdo_mysql')) {
        // It would outlast the process that opens it only to be found dead.
        $options = [\PDO::ATTR_PERSISTENT => false] + Database::getPdoOptions();
        Database::setPdoOptions($options, false);
    }
}

/** @return list<string> what other connections the application has opened while it booted */
function shared_connections(): array
{
    $inodes = [];
    foreach (glob('/proc/self/fd/*') as $link) {
        $target = (string) silently(fn () => readlink($link));
        if (preg_match('/^socket:\[(\d+)\]$/', $target, $inode)) {
            $inodes[$inode[1]] = true;
        }
    }
    $warnings = [];
    foreach (array_filter(['/proc/net/tcp', '/proc/net/tcp6'], is_readable(...)) as $table) {
        foreach (file($table) as $line) {
            $fields = preg_split('/\s+/', trim($line));
            // 01: established.
            if (($fields[3] ?? '') === '01' && isset($inodes[$fields[9] ?? ''])) {
                $port = hexdec(substr($fields[2], -4));
                $warnings[] = "a connection to port $port is open before the first message:"
                    . ' all would use it at once, open it in the callback';
            }
        }
    }
    return $warnings;
}

/** The original if it can be loaded. */
function declare_relationship(): void
{
    if (!class_exists(WsUserConnectionRelationship::class)) {
        class_alias(Relationship::class, WsUserConnectionRelationship::class);
    }
}

/** What the callback is told, where CarbonPHP has no class for it. */
class Relationship
{
    public function __construct(
        public string $userId,
        public mixed $userPipe,
        public mixed $userSocket,
        public string $sessionId,
        public array $headers,
        public string $port,
        public string $ip,
    ) {
    }
}

/** @return array<string, mixed> what the server has to know before it binds */
function describe(array $configuration): array
{
    $socket = $configuration['SOCKET'] ?? [];
    $warnings = shared_connections();
    $kind = fn (mixed $callback) => $callback === null ? 'default' : 'application';
    foreach (['validateUserCallback', 'startApplicationCallback'] as $name) {
        if (WebSocket::$$name !== null && !is_callable(WebSocket::$$name)) {
            $warnings[] = "WebSocket::\$$name cannot be called";
        }
    }
    if (empty($configuration['SESSION'])) {
        $warnings[] = 'SESSION is not configured: sessions are those of PHP\'s own configuration';
    }
    return [
        'bridge' => 1,
        'php' => PHP_VERSION,
        'carbonphp' => carbonphp_version(),
        'root' => CarbonPHP::$app_root,
        'host' => (string) ($socket['HOST'] ?? WebSocket::$host),
        'port' => (int) ($socket['PORT'] ?? WebSocket::$port),
        'tls' => find_certificate($socket, $warnings),
        'dev' => (bool) ($socket['DEV'] ?? false),
        'verify_ip' => WebSocket::$verifyIP,
        'stream_select_seconds' => WebSocket::$streamSelectSeconds,
        'auto_port' => WebSocket::$autoAssignOpenPorts,
        'fifo_directory' => CarbonPHP::$app_root . Pipe::$channelDirectory,
        'fifo_delimiter' => Pipe::$fifoDelimiter,
        'callbacks' => [
            'validate' => $kind(WebSocket::$validateUserCallback),
            'message' => $kind(WebSocket::$startApplicationCallback),
        ],
        'session' => [
            'configured' => !empty($configuration['SESSION']),
            'remote' => !empty($configuration['SESSION']['REMOTE']),
        ],
        'mentions_lists' => mentions_lists(),
        'warnings' => $warnings,
    ];
}

/**
 * @param list<string> $warnings
 * @return ?array{cert: string, key: string}
 */
function find_certificate(array $socket, array &$warnings): ?array
{
    $cert = (string) ($socket['SSL']['CERT'] ?? '');
    $key = (string) ($socket['SSL']['KEY'] ?? '');
    if ($cert !== '' && $key !== '') {
        return ['cert' => $cert, 'key' => $key];
    }
    if ($cert !== '' || $key !== '') {
        $missing = $cert === '' ? 'CERT' : 'KEY';
        $warnings[] = "SOCKET.SSL.$missing is empty: no TLS";
    }
    return WebSocket::$ssl ? ['cert' => WebSocket::$cert, 'key' => WebSocket::$cert] : null;
}

function carbonphp_version(): ?string
{
    $file = dirname(CarbonPHP::CARBON_ROOT) . '/composer.json';
    $composer = is_file($file) ? json_decode((string) file_get_contents($file), true) : null;
    $version = $composer['version'] ?? null;
    return is_string($version) ? $version : null;
}

/** Whether the application's own files speak of who is connected. */
function mentions_lists(): bool
{
    $root = rtrim(CarbonPHP::$app_root, '/');
    $foreign = [realpath(CarbonPHP::CARBON_ROOT), realpath("$root/vendor"), realpath("$root/tmp")];
    $isOwn = fn (\SplFileInfo $file) => !str_starts_with($file->getFilename(), '.')
        && $file->getFilename() !== 'node_modules'
        && !in_array($file->getRealPath(), $foreign, true);
    $tree = new \RecursiveCallbackFilterIterator(
        new \RecursiveDirectoryIterator($root, \FilesystemIterator::SKIP_DOTS),
        $isOwn,
    );
    $mentions = fn (string $path) => preg_match(
        LISTS,
        (string) silently(fn () => file_get_contents($path)),
    ) === 1;
    $flags = \RecursiveIteratorIterator::CATCH_GET_CHILD;
    $files = new \RecursiveIteratorIterator($tree, flags: $flags);
    foreach ($files as $path => $file) {
        $isCode = $file->isFile() && $file->getExtension() === 'php' && $path !== __FILE__;
        if ($isCode && $mentions($path)) {
            return true;
        }
    }
    return $mentions(get_included_files()[0]);
}

/** The request that php-fpm runs this for. */
final class FpmRequest
{
    /** What the environment of a command line does not have. */
    private const VARIABLES
        = '/^(CONTENT|DOCUMENT|FCGI|GATEWAY|HTTP|PATH|QUERY|REMOTE|REQUEST|SCRIPT|SERVER|WS)_/';
    /** @var array<string, string> */
    private static array $variables = [];
    private static bool $isAnswered = false;
    /** @var list<string> what CarbonPHP has logged while it booted */
    public static array $saidAtBoot = [];
    /** The application's index.php. */
    public static string $index = '';

    /** Makes all look as on the command line. */
    public static function begin(): void
    {
        self::$variables = array_filter($_SERVER, is_string(...));
        self::$index = self::$variables['WS_CARBONPHP_INDEX'] ?? '';
        if (self::$index === '') {
            // Somebody asks a web server for this file.
            http_response_code(404);
            exit;
        }
        \ws\discard_output(0);
        // Until there is an answer: when memory is exhausted, not even end() may be run.
        http_response_code(500);
        register_shutdown_function(self::end(...));
        ini_set('html_errors', '0');
        // The browser has said what its pages may be packed with.
        ini_set('zlib.output_compression', '0');
        foreach (['STDOUT', 'STDERR'] as $name) {
            define($name, fopen('ws-log://', 'w'));
        }
        chdir(dirname(self::$index));
        $name = basename(self::$index);
        $GLOBALS['argv'] = [$name, 'websocket'];
        $GLOBALS['argc'] = 2;
        $isOfCommandLine = fn (string $variable) => !preg_match(self::VARIABLES, $variable);
        $_SERVER = array_filter(self::$variables, $isOfCommandLine, ARRAY_FILTER_USE_KEY) + [
            'argv' => $GLOBALS['argv'],
            'argc' => $GLOBALS['argc'],
            'REQUEST_TIME' => $_SERVER['REQUEST_TIME'],
            'REQUEST_TIME_FLOAT' => $_SERVER['REQUEST_TIME_FLOAT'],
            'DOCUMENT_ROOT' => '',
        ];
        foreach (['PHP_SELF', 'SCRIPT_NAME', 'SCRIPT_FILENAME', 'PATH_TRANSLATED'] as $variable) {
            $_SERVER[$variable] = $name;
        }
        $_GET = $_POST = $_COOKIE = $_REQUEST = $_FILES = [];
    }

    public static function answer(): void
    {
        $body = (string) file_get_contents('php://input');
        [$headers, $content] = \ws\ask(answer(...), self::$variables, $body);
        if (headers_sent($file, $line)) {
            complain("no answer: what $file printed in line $line went past all buffers");
            return;
        }
        // Sessions and web pages set some of their own, and a status, which nobody takes.
        header_remove();
        header('HTTP/1.1 200 OK');
        // The server takes nothing behind that: what shutdown functions and destructors print.
        array_map(header(...), [...$headers, 'Content-Length: ' . strlen($content)]);
        self::$isAnswered = true;
        echo $content;
    }

    private static function end(): void
    {
        if (!self::$isAnswered) {
            \ws\discard_output(0);
            if (!headers_sent()) {
                header_remove();
                header('HTTP/1.1 500 Internal Server Error');
            }
        }
    }
}

/** The log of php-fpm's peer: "ws-log://". */
final class LogStream
{
    /** @var ?resource set by PHP */
    public $context;

    public function stream_open(string $path, string $mode, int $options, ?string &$opened): bool
    {
        return true;
    }

    public function stream_write(string $data): int
    {
        // Whole lines, as long as there are such.
        preg_match_all('/.{1,1000}(?:\n|$)|.{1,1000}/s', $data, $pieces);
        foreach ($pieces[0] as $piece) {
            // To whom PHP itself logs, wherever the application does. More than log_limit is cut.
            error_log($piece, 4);
        }
        return strlen($data);
    }
}

/** Answers a request of the server. */
function answer(array $variables, string $body): string
{
    $visit = new Visit($variables);
    $visit->enter($body);
    return match ($variables['WS_EVENT'] ?? 'message') {
        'validate' => validate($visit),
        'message' => run_message($visit, $body),
        // The original knows of no others.
        default => '',
    };
}

/** Lets the application say who the visitor is. */
function validate(Visit $visit): string
{
    WebSocket::$validateUserCallback ??= session_user(...);
    try {
        $visit->rememberSession();
        $printed = \ws\capture(function () use ($visit, &$user) {
            $port = (int) $visit->port;
            $user = call(WebSocket::$validateUserCallback, $visit->ip, $port);
        });
        if (trim($printed) !== '') {
            complain("validateUserCallback has printed: $printed");
        }
        if ($user === null || $user === false || $user === '') {
            complain('validateUserCallback has refused the visitor');
            \ws\header('Status', '401');
            return '';
        }
        if (!is_int($user) && !is_string($user)) {
            $type = get_debug_type($user);
            throw new \UnexpectedValueException("validateUserCallback has returned $type, no id");
        }
        \ws\header('X-WS-User', (string) $user);
        // Of none, too: the session that was here before is over.
        \ws\header('X-WS-Data', (string) session_id());
        close();
    } catch (\Throwable $error) {
        report($error);
        \ws\header('Status', '503');
    }
    return '';
}

/** Who is logged in with the visitor's session, as far as the original can tell. */
function session_user(): int|string|false
{
    new Session(CarbonPHP::$configuration['SESSION']['REMOTE'] ?? false);
    return $_SESSION['id'] ?? $_SESSION['user_id'] ?? session_id();
}

/** Runs the application for a message. */
function run_message(Visit $visit, string $uri): string
{
    WebSocket::$startApplicationCallback ??= static fn ($uri) => \startApplication($uri);
    try {
        $output = \ws\capture(function () use ($visit, $uri) {
            $visit->resumeSession();
            $relationship = $visit->relationship();
            call(WebSocket::$startApplicationCallback, $uri, $relationship);
        });
    } catch (\Throwable $error) {
        report($error);
        \ws\header('Status', '500');
        return '';
    }
    $visit->keepSession();
    close();
    $output = trim($output);
    if (!empty($output)) {
        return $output;
    }
    if (Application::$sendsNothing) {
        return '';
    }
    return Route::$matched ? NO_OUTPUT : sprintf(NO_ROUTE, $uri);
}

/** By reflection it is PHP that calls, which converts arguments where types are not strict. */
function call(mixed $callback, mixed ...$arguments): mixed
{
    if (!is_callable($callback)) {
        throw new \UnexpectedValueException('the callback of the application cannot be called');
    }
    return (new \ReflectionFunction($callback(...)))->invoke(...$arguments);
}

/** Tells of an exception: in the log, and as CarbonPHP does it. */
function report(\Throwable $error): void
{
    \ws\say((string) $error);
    try {
        \ws\capture(function () use ($error) {
            ThrowableHandler::generateLog($error, true);
        });
    } catch (\Throwable $another) {
        \ws\say((string) $another);
    }
}

/** Stores the session and takes leave of the database, which SIGKILL would not. */
function close(): void
{
    if (session_status() === PHP_SESSION_ACTIVE) {
        session_write_close();
    }
    foreach (['database', 'databaseReader'] as $name) {
        if (property_exists(Database::class, $name)) {
            (new \ReflectionProperty(Database::class, $name))->setValue(null, null);
        }
    }
}

/** A connection that asks for something. */
final class Visit
{
    public readonly string $ip;
    public readonly string $port;
    private readonly string $connection;

    /** @param array<string, string> $variables */
    public function __construct(private readonly array $variables)
    {
        $this->ip = $variables['REMOTE_ADDR'] ?? '';
        $this->port = $variables['REMOTE_PORT'] ?? '';
        $this->connection = $variables['WS_CONNECTION_ID'] ?? '';
    }

    /** Sets what the application finds in variables. */
    public function enter(string $uri): void
    {
        Control::$path = $this->variables['WS_CONTROL_SOCKET'] ?? null;
        foreach (Application::$process as $name => $value) {
            $_SERVER[$name] = $value;
        }
        $_SERVER['SERVER_PORT'] = &WebSocket::$port;
        $_SERVER['REQUEST_URI'] = $uri;
        $_SERVER['REMOTE_ADDR'] = $this->ip;
        $_SERVER['HTTP_COOKIE'] = $this->variables['HTTP_COOKIE'] ?? '';
        $_SERVER['User_Agent'] = $this->variables['HTTP_USER_AGENT'] ?? '';
        $_SERVER['Host'] = $this->variables['HTTP_HOST'] ?? '';
        CarbonPHP::$user_ip = $this->ip;
        // A web request has the client's address here, and stores it with the session.
        CarbonPHP::$server_ip = $this->ip;
    }

    /** Has a visitor whose browser does not know of the session that it has go on with it. */
    public function rememberSession(): void
    {
        $id = $this->variables['WS_SESSION_DATA'] ?? '';
        if (!isset($_COOKIE[session_name()]) && session_exists($id)) {
            $_COOKIE[session_name()] = $id;
        }
    }

    /** Resumes the session that the validation found, else the cookie's; never makes one. */
    public function resumeSession(): void
    {
        $id = $this->sessionId();
        if ($id === null || session_status() !== PHP_SESSION_NONE) {
            return;
        }
        if (empty(CarbonPHP::$configuration['SESSION'])) {
            session_id($id);
            session_start();
        } else {
            Session::resume($id);
        }
        if (session_id() !== $id) {
            // It has ended meanwhile. The new one that PHP makes then is for nobody.
            session_destroy();
        }
    }

    /** Tells the server if the application has gone on to another session. */
    public function keepSession(): void
    {
        $known = $this->variables['WS_SESSION_DATA'] ?? '';
        if (session_status() === PHP_SESSION_ACTIVE && session_id() !== $known) {
            \ws\header('X-WS-Data', (string) session_id());
        }
    }

    private function sessionId(): ?string
    {
        $cookie = $_COOKIE[session_name()] ?? null;
        foreach ([$this->variables['WS_SESSION_DATA'] ?? null, $cookie] as $id) {
            if (is_string($id) && session_exists($id)) {
                return $id;
            }
        }
        return null;
    }

    public function relationship(): WsUserConnectionRelationship
    {
        $user = $this->variables['WS_USER_ID'] ?? '';
        $own = new WsUserConnectionRelationship(
            userId: $user,
            userPipe: open_fifo($this->variables['WS_FIFO'] ?? '')
                ?? ConnectionStream::open($this->connection, 'run'),
            userSocket: ConnectionStream::open($this->connection),
            sessionId: (string) session_id() ?: $user,
            headers: headers($this->variables),
            port: $this->port,
            ip: $this->ip,
        );
        WebSocket::$globalPipeFifo = open_fifo($this->variables['WS_GLOBAL_FIFO'] ?? '');
        if (Application::$wantsLists) {
            list_connections($this->connection, $own);
        }
        return $own;
    }
}

/** Whether PHP would take this session up. If not it makes another, one more for each message. */
function session_exists(string $id): bool
{
    $length = strlen($id);
    if ($length === 0 || $length > 256 || strspn($id, ID_CHARACTERS) < $length) {
        return false;
    }
    if (ini_get('session.save_handler') !== 'files') {
        return true;
    }
    $place = explode(';', (string) session_save_path());
    $directory = rtrim((string) end($place) ?: sys_get_temp_dir(), '/');
    $depth = count($place) > 1 ? min((int) $place[0], strlen($id)) : 0;
    for ($level = 0; $level < $depth; $level++) {
        $directory .= "/$id[$level]";
    }
    return is_file("$directory/sess_$id");
}

/** @return array<string, string> headers under the names that a browser writes */
function headers(array $variables): array
{
    $headers = [];
    foreach ($variables as $name => $value) {
        if (str_starts_with($name, 'HTTP_')) {
            $name = ucwords(strtolower(strtr(substr($name, 5), '_', '-')), '-');
            $headers[str_replace('Websocket', 'WebSocket', $name)] = $value;
        }
    }
    return $headers;
}

/** @return ?resource */
function open_fifo(string $path): mixed
{
    $open = fn () => filetype($path) === 'fifo' ? fopen($path, 'rb+') : false;
    $fifo = silently($open) ?: null;
    if ($fifo) {
        stream_set_blocking($fifo, false);
    }
    return $fifo;
}

/** Fills the lists of who is connected. */
function list_connections(string $id, WsUserConnectionRelationship $own): void
{
    try {
        $connections = Control::ask('GET', '/v1/connections')['connections'] ?? [];
    } catch (\RuntimeException $error) {
        complain("cannot tell who is connected: {$error->getMessage()}");
        $connections = [];
    }
    $relationships = [];
    foreach ($connections as $it) {
        $relationship = $it['id'] === $id ? $own : new WsUserConnectionRelationship(
            userId: (string) ($it['user'] ?? ''),
            userPipe: ConnectionStream::open($it['id'], 'run'),
            userSocket: ConnectionStream::open($it['id']),
            sessionId: (string) ($it['user'] ?? ''),
            headers: [],
            port: (string) ($it['port'] ?? ''),
            ip: (string) ($it['ip'] ?? ''),
        );
        $last = $relationship->port === '' ? $it['id'] : $relationship->port;
        $relationships["$relationship->userId:$relationship->ip:$last"] = $relationship;
    }
    WebSocket::$userConnectionRelationships = $relationships;
    WebSocket::$userResourceConnections = array_values(
        array_map(fn ($it) => $it->userSocket, $relationships)
    );
    $resources = [WebSocket::$socket, WebSocket::$globalPipeFifo];
    foreach ($relationships as $it) {
        array_push($resources, $it->userSocket, $it->userPipe);
    }
    WebSocket::$allConnectedResources = array_values(array_filter($resources));
}

/** Sends a message by the control socket; false, and a line in the log, if that fails. */
function send(array $to, string $data, int $opCode): bool
{
    if ($opCode === WebSocket::PING || $opCode === WebSocket::PONG) {
        // The server's own business.
        return true;
    }
    $isText = $opCode === WebSocket::TEXT && preg_match('//u', $data);
    $content = $isText ? ['text' => $data] : ['base64' => base64_encode($data)];
    try {
        $receipt = Control::ask('POST', '/v1/send', ['to' => $to] + $content);
    } catch (\RuntimeException $error) {
        complain("cannot send: {$error->getMessage()}");
        return false;
    }
    if (isset($to['connection']) && $receipt['written'] + $receipt['queued'] === 0) {
        complain("cannot send: the connection $to[connection] has ended");
        return false;
    }
    return true;
}

/** The server's control socket. */
final class Control
{
    public static ?string $path = null;

    public static function isThere(): bool
    {
        return self::$path !== null && is_writable(self::$path);
    }

    /**
     * @return array<string, mixed> the answer
     * @throws \RuntimeException
     */
    public static function ask(string $method, string $target, ?array $content = null): array
    {
        if (!self::isThere()) {
            $path = self::$path ?? '';
            throw new \RuntimeException("the control socket $path cannot be written to");
        }
        $flags = JSON_UNESCAPED_SLASHES | JSON_UNESCAPED_UNICODE | JSON_THROW_ON_ERROR;
        $body = $content === null ? '' : json_encode($content, $flags);
        $request = implode("\r\n", [
            "$method $target HTTP/1.1",
            'Host: localhost',
            'Content-Type: application/json',
            'Content-Length: ' . strlen($body),
            'Connection: close',
            '',
            $body,
        ]);
        $answer = silently(fn () => self::exchange($request));
        [$head, $body] = explode("\r\n\r\n", $answer, 2) + [1 => ''];
        $decoded = json_decode($body, true);
        if (!preg_match('#^HTTP/1\.[01] 2#', $head) || !is_array($decoded)) {
            $reason = $decoded['error'] ?? strtok($head, "\r\n") ?: 'no answer';
            throw new \RuntimeException("$method $target: $reason");
        }
        return $decoded;
    }

    private static function exchange(string $request): string
    {
        $path = self::$path;
        $stream = stream_socket_client("unix://$path", $code, $reason, CONTROL_TIMEOUT);
        if (!$stream) {
            throw new \RuntimeException("$path: $reason");
        }
        stream_set_timeout($stream, CONTROL_TIMEOUT);
        for ($sent = 0; $sent < strlen($request); $sent += $count) {
            $count = fwrite($stream, $sent === 0 ? $request : substr($request, $sent));
            if (!$count) {
                break;
            }
        }
        $answer = (string) stream_get_contents($stream);
        fclose($stream);
        return $answer;
    }
}

/** What is written here is a message to a browser: "ws-connection://ID". */
final class ConnectionStream
{
    /** @var ?resource set by PHP */
    public $context;
    private string $connection = '';
    private bool $runs = false;

    /** @return resource a handle for messages to the connection, or, to "run", URIs for it */
    public static function open(string $connection, string $purpose = 'send'): mixed
    {
        $handle = fopen("ws-connection://$connection/$purpose", 'r+');
        // PHP cuts what is written into pieces of this size.
        stream_set_chunk_size($handle, MAX_WRITE);
        return $handle;
    }

    public static function of(mixed $handle): ?self
    {
        $about = is_resource($handle) ? stream_get_meta_data($handle) : [];
        $stream = $about['wrapper_data'] ?? null;
        return $stream instanceof self && !$stream->runs ? $stream : null;
    }

    public function send(string $data, int $opCode): bool
    {
        return $opCode === WebSocket::CLOSE
            ? $this->close()
            : send(['connection' => $this->connection], $data, $opCode);
    }

    public function run(string $uri): bool
    {
        try {
            $to = ['connection' => $this->connection];
            Control::ask('POST', '/v1/run', ['to' => $to, 'uri' => $uri]);
            return true;
        } catch (\RuntimeException | \JsonException $error) {
            complain("cannot run: {$error->getMessage()}");
            return false;
        }
    }

    private function close(): bool
    {
        try {
            Control::ask('DELETE', "/v1/connections/$this->connection?code=1000");
            return true;
        } catch (\RuntimeException $error) {
            complain("cannot close: {$error->getMessage()}");
            return false;
        }
    }

    public function stream_open(string $path, string $mode, int $options, ?string &$opened): bool
    {
        $parts = explode('/', substr($path, strlen('ws-connection://')));
        $this->connection = $parts[0];
        $this->runs = ($parts[1] ?? 'send') === 'run';
        return true;
    }

    public function stream_write(string $data): int|false
    {
        $isDone = true;
        if ($this->runs) {
            foreach (array_filter(explode(Pipe::$fifoDelimiter, $data)) as $uri) {
                $isDone = $this->run($uri) && $isDone;
            }
            return $isDone ? strlen($data) : false;
        }
        // Whoever writes to a socket writes frames. No text begins with the first byte of one.
        foreach (take_frames_apart($data) ?? [[WebSocket::TEXT, $data]] as [$opCode, $payload]) {
            $isDone = $this->send($payload, $opCode) && $isDone;
        }
        return $isDone ? strlen($data) : false;
    }

    public function stream_read(int $count): string
    {
        return '';
    }

    public function stream_eof(): bool
    {
        return false;
    }

    public function stream_flush(): bool
    {
        return true;
    }

    public function stream_close(): void
    {
    }

    public function stream_stat(): array|false
    {
        return false;
    }

    public function stream_set_option(int $option, int $first, ?int $second): bool
    {
        return false;
    }
}

/** @return ?list<array{int, string}> opcodes and payloads; null unless it is whole frames */
function take_frames_apart(string $bytes): ?array
{
    $frames = [];
    while ($bytes !== '') {
        $pattern = '/^[\x81\x82\x88-\x8a]([\x00-\x7d]|\x7e(..)|\x7f(.{8}))/s';
        if (!preg_match($pattern, $bytes, $head)) {
            return null;
        }
        $length = match (count($head)) {
            2 => ord($head[1]),
            3 => unpack('n', $head[2])[1],
            default => unpack('J', $head[3])[1],
        };
        $start = strlen($head[0]);
        // One with the highest bit set is negative here, and no length (RFC 6455 §5.2).
        if ($length < 0 || strlen($bytes) - $start < $length) {
            return null;
        }
        $frames[] = [ord($bytes[0]) & 0xf, substr($bytes, $start, $length)];
        $bytes = substr($bytes, $start + $length);
    }
    return $frames ?: null;
}

begin();

if (!is_fork_server()) {
    // Out here rather than in a function, so that the application's variables are global as ever.
    require FpmRequest::$index;
}
