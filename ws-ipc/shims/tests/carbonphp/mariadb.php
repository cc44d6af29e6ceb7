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
        $options = ['--no-defaults', '--skip-networking', "--socket=$this->socket", "--datadir=$this->directory/data"];
        $user = '--user=' . posix_getpwuid(posix_geteuid())['name'];
        $installation = ['mariadb-install-db', ...$options, $user, '--auth-root-authentication-method=normal'];
        proc_close(proc_open($installation, [['file', '/dev/null', 'r'], $log, $log], $pipes));
        $server = ['/usr/sbin/mariadbd', ...$options, $user];
        $this->process = proc_open($server, [['file', '/dev/null', 'r'], $log, $log], $pipes);
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
