<?php

namespace CarbonPHP;

class Database
{
    private static ?\PDO $database = null;
    private static ?\PDO $databaseReader = null;

    public static function database(bool $reader): \PDO
    {
        $configuration = CarbonPHP::$configuration['DATABASE'];
        return self::$database ??= new \PDO(
            "mysql:host=$configuration[DB_HOST];dbname=$configuration[DB_NAME]",
            $configuration['DB_USER'],
            $configuration['DB_PASS'],
        );
    }

    public static function close($reader = false): void
    {
        if ($reader) {
            self::$databaseReader = null;
        } else {
            self::$database = null;
        }
    }
}
