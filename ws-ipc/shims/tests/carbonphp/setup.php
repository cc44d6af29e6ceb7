<?php

// The bridge at work before an application, and a control socket that takes what is sent.

declare(strict_types=1);

const TIMEOUT = 30;

/** A site, the bridge that serves it, and its control socket. */
final class Bridge
{
    public readonly string $site;
    /** @var list<array{string, array}> what the control socket was asked for, and with what */
    public array $asked = [];
    /** @var list<array<string, mixed>> who is connected, as the control socket tells it */
    public array $connections = [];
    /** @var array<string, mixed> what a push is answered with */
    public array $receipt = ['connections' => 1, 'written' => 1, 'queued' => 0, 'dropped' => 0];
    public int $status = 200;
    /** @var resource */
    private $control;
    /** @var resource */
    private $process;
    /** @var ?resource */
    private $web = null;

    /**
     * @param array<string, string> $environment
     * @param string $configuration the code of what configuration.php returns
     */
    public function __construct(array $environment = [], string $configuration = '[]')
    {
        $this->site = make_site($configuration);
        $this->control = stream_socket_server("unix://$this->site/control.sock");
        $listener = stream_socket_server("unix://$this->site/bridge.sock");
        $log = ['file', "$this->site/stderr", 'a'];
        $streams = [$listener, ['file', "$this->site/stdout", 'a'], $log];
        $this->process = start($this->site, $streams, $environment);
    }

    /** @param array<string, string> $variables */
    public function ask(string $body, array $variables = []): Answer
    {
        $stream = $this->begin($body, $variables);
        return new Answer($this->await($stream));
    }

    /** @return resource the connection of a request that was written */
    public function begin(string $body, array $variables = []): mixed
    {
        $stream = $this->connect();
        fwrite_whole($stream, request($body, $variables + $this->variables()));
        return $stream;
    }

    /** @return resource */
    public function connect(): mixed
    {
        return stream_socket_client("unix://$this->site/bridge.sock", timeout: TIMEOUT);
    }

    /** Reads an answer to its end, and serves the control socket meanwhile. */
    public function await(mixed $stream): string
    {
        $answer = '';
        for (;;) {
            $ready = [$stream, $this->control];
            $none = null;
            if (!stream_select($ready, $none, $none, TIMEOUT)) {
                throw new RuntimeException('there is no answer; ' . $this->log());
            }
            if (in_array($this->control, $ready, true)) {
                $this->serveControl();
            } elseif (($bytes = fread($stream, 1 << 16)) !== '' && $bytes !== false) {
                $answer .= $bytes;
            } else {
                return $answer;
            }
        }
    }

    private function serveControl(): void
    {
        $connection = stream_socket_accept($this->control, TIMEOUT);
        $request = '';
        while (!preg_match('/^(.*?)\r\n\r\n(.*)$/s', $request, $parts)
            || strlen($parts[2]) < (int) (preg_match('/Content-Length: (\d+)/i', $parts[1], $length)
                ? $length[1] : 0)) {
            $request .= $more = (string) fread($connection, 1 << 16);
            if ($more === '') {
                break;
            }
        }
        $line = preg_replace('# HTTP/1\.1$#', '', strtok($parts[1], "\r\n"));
        $this->asked[] = [$line, json_decode($parts[2], true) ?? []];
        $answer = match (true) {
            $this->status !== 200 => ['error' => 'as asked'],
            $line === 'GET /v1/connections' => ['connections' => $this->connections],
            default => $this->receipt,
        };
        $body = json_encode($answer);
        $length = strlen($body);
        fwrite($connection, "HTTP/1.1 $this->status X\r\nContent-Length: $length\r\n\r\n$body");
        fclose($connection);
    }

    /** @return array<string, string> what the server says of a connection */
    public function variables(): array
    {
        return [
            'WS_EVENT' => 'message',
            'WS_CONTROL_SOCKET' => "$this->site/control.sock",
            'WS_CONNECTION_ID' => '00000000000000c1',
            'WS_USER_ID' => '7',
            'WS_SOURCE' => 'client',
            'REMOTE_ADDR' => '192.0.2.1',
            'REMOTE_PORT' => '4711',
            'SERVER_PORT' => '80',
            'SERVER_NAME' => 'example.org',
            'SCRIPT_NAME' => '',
            'REQUEST_METHOD' => 'GET',
            'HTTP_HOST' => 'example.org',
            'HTTP_USER_AGENT' => 'a browser',
            'HTTP_COOKIE' => 'user=7',
        ];
    }

    /** @return list<string> files of sessions */
    public function sessions(): array
    {
        $files = glob("$this->site/tmp/sessions/sess_*");
        return array_map(fn ($path) => substr(basename($path), strlen('sess_')), $files);
    }

    /** Makes a session, as a web request would have. */
    public function addSession(string $id, string $content): void
    {
        file_put_contents("$this->site/tmp/sessions/sess_$id", $content);
    }

    public function log(): string
    {
        return file_get_contents("$this->site/stderr") . file_get_contents("$this->site/stdout");
    }

    /** Serves the site to web requests, without the bridge; returns the address. */
    public function startWeb(): string
    {
        $log = "$this->site/web.log";
        $streams = [['file', '/dev/null', 'r'], ['file', $log, 'a'], ['file', $log, 'a']];
        $command = [PHP_BINARY, '-S', '127.0.0.1:0', 'index.php'];
        $this->web = proc_open($command, $streams, $pipes, $this->site);
        $says = fn () => preg_match('#http://127\.0\.0\.1:\d+#', file_get_contents($log), $address)
            ? $address[0]
            : null;
        eventually(fn () => $says() !== null);
        return $says();
    }

    /** Waits until something is said. */
    public function hasSaid(string $text): bool
    {
        return eventually(fn () => str_contains($this->log(), $text));
    }

    public function pid(): int
    {
        return proc_get_status($this->process)['pid'];
    }

    public function end(): void
    {
        foreach (array_filter([$this->process, $this->web]) as $process) {
            proc_terminate($process);
            proc_close($process);
        }
        remove($this->site);
    }
}

/** What a bridge has answered. */
final class Answer
{
    /** @var array<string, string> */
    public readonly array $headers;
    public readonly ?string $body;

    public function __construct(public readonly string $bytes)
    {
        [$head, $body] = explode("\r\n\r\n", $bytes, 2) + [1 => null];
        preg_match_all('/^([^:\r\n]+): ([^\r\n]*)/m', $head, $fields);
        $this->headers = array_combine($fields[1], $fields[2]);
        $this->body = $body;
    }

    public function isWhole(): bool
    {
        return $this->header('Content-Length') === (string) strlen((string) $this->body);
    }

    public function header(string $name): ?string
    {
        return $this->headers[$name] ?? null;
    }

    public function json(): mixed
    {
        return json_decode($this->body, true, flags: JSON_THROW_ON_ERROR);
    }
}

function make_site(string $configuration): string
{
    $site = sys_get_temp_dir() . '/carbonphp-' . bin2hex(random_bytes(6));
    $command = [PHP_BINARY, __DIR__ . '/make-site.php', $site];
    proc_close(proc_open($command, [], $pipes));
    file_put_contents("$site/configuration.php", "<?php return $configuration;");
    mkdir("$site/tmp/sessions", recursive: true);
    return $site;
}

/** Starts `php index.php websocket` with the bridge. */
function start(string $site, array $streams, array $environment): mixed
{
    $bridge = getenv('WS_BRIDGE') ?: dirname(__DIR__, 2) . '/carbonphp.php';
    $opcache = ['-d', 'opcache.enable_cli=1', '-d', 'opcache.huge_code_pages=1'];
    $prepended = ['-d', "auto_prepend_file=$bridge"];
    $command = [PHP_BINARY, ...$opcache, ...$prepended, 'index.php', 'websocket'];
    $environment += ['PATH' => '/usr/bin:/bin'];
    return proc_open($command, $streams, $pipes, $site, $environment);
}

/** @return array{int, ?array, string} exit code, report, and what was said */
function describe(string $configuration = '[]'): array
{
    $site = make_site($configuration);
    $streams = [['file', '/dev/null', 'r'], ['file', "$site/log", 'a'], ['file', "$site/log", 'a']];
    $process = start($site, $streams, ['WS_CARBONPHP_REPORT' => "$site/report.json"]);
    $code = proc_close($process);
    $report = is_file("$site/report.json") ? file_get_contents("$site/report.json") : 'null';
    $log = file_get_contents("$site/log");
    remove($site);
    $report = json_decode(str_replace($site, '/site', $report), true);
    return [$code, $report, $log];
}

function request(string $body, array $variables): string
{
    $variables = ['CONTENT_LENGTH' => (string) strlen($body), 'SCGI' => '1'] + $variables;
    $fields = '';
    foreach ($variables as $name => $value) {
        $fields .= "$name\0$value\0";
    }
    return strlen($fields) . ":$fields,$body";
}

function fwrite_whole(mixed $stream, string $bytes): void
{
    while ($bytes !== '') {
        $bytes = substr($bytes, fwrite($stream, $bytes) ?: throw new RuntimeException('cut off'));
    }
}

function eventually(callable $claim): bool
{
    for ($end = microtime(true) + TIMEOUT; microtime(true) < $end; usleep(5000)) {
        if ($claim()) {
            return true;
        }
    }
    return false;
}

function remove(string $path): void
{
    if (is_link($path) || !is_dir($path)) {
        unlink($path);
        return;
    }
    foreach (array_diff(scandir($path), ['.', '..']) as $name) {
        remove("$path/$name");
    }
    rmdir($path);
}
