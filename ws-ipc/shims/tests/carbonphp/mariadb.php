<?php

declare(strict_types=1);

/** A database server of its own. */
final class Mariadb
{
    public readonly string $socket;
    private readonly string $directory;
    /** @var resource */
    private $process;
    private ?PDO $connection = null;

    public function __construct()
    {
        $this->directory = sys_get_temp_dir() . '/mariadb-' . bin2hex(random_bytes(6));
        $this->socket = "$this->directory/mariadb.sock";
        mkdir("$this->directory/data", recursive: true);
        $log = ['file', "$this->directory/log", 'a'];
        $streams = [['file', '/dev/null', 'r'], $log, $log];
        $options = [
            '--no-defaults',
            '--skip-networking',
            "--socket=$this->socket",
            "--datadir=$this->directory/data",
            '--user=' . posix_getpwuid(posix_geteuid())['name'],
        ];
        $method = '--auth-root-authentication-method=normal';
        $installation = ['/usr/bin/mariadb-install-db', ...$options, $method];
        proc_close(proc_open($installation, $streams, $pipes));
        $this->process = proc_open(['/usr/sbin/mariadbd', ...$options], $streams, $pipes);
        register_shutdown_function($this->end(...));
        if (!eventually(fn () => $this->connect())) {
            throw new RuntimeException(file_get_contents("$this->directory/log"));
        }
    }

    private function connect(): bool
    {
        try {
            $this->connection = new PDO("mysql:unix_socket=$this->socket;dbname=test", 'root', '');
        } catch (PDOException) {
            return false;
        }
        return true;
    }

    /** The last column of the only row, as text. */
    public function ask(string $query): string
    {
        return (string) array_slice($this->connection->query($query)->fetch(PDO::FETCH_NUM), -1)[0];
    }

    private function end(): void
    {
        $this->connection = null;
        proc_terminate($this->process);
        proc_close($this->process);
        remove($this->directory);
    }
}
