<?php

namespace CarbonPHP;

class Database
{
    private static ?\PDO $database = null;
    private static ?\PDO $databaseReader = null;
    private static ?array $pdo_options = null;

    public static function database(bool $reader): \PDO
    {
        $configuration = CarbonPHP::$configuration['DATABASE'];
        return self::$database ??= new \PDO(
            "mysql:host=$configuration[DB_HOST];dbname=$configuration[DB_NAME]",
            $configuration['DB_USER'],
            $configuration['DB_PASS'],
            self::getPdoOptions(),
        );
    }

    public static function getPdoOptions(): array
    {
        return self::$pdo_options ??= [\PDO::ATTR_PERSISTENT => CarbonPHP::$cli];
    }

    public static function setPdoOptions(array $pdo_options, \PDO|bool $reader): void
    {
        self::$pdo_options = $pdo_options;
    }

    public static function close($reader = false): void
    {
        try {
            // A persistent one stays open if it is only forgotten.
            self::$database?->exec('KILL CONNECTION_ID()');
        } catch (\PDOException) {
            // As asked.
        }
        if ($reader) {
            self::$databaseReader = null;
        } else {
            self::$database = null;
        }
    }
}
