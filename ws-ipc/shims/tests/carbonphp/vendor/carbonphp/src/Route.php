<?php

namespace CarbonPHP;

abstract class Route
{
    public static string $uri = '';
    public static bool $matched = false;

    abstract public function defaultRoute(): void;

    public function __construct()
    {
        self::$uri = trim((string) parse_url($_SERVER['REQUEST_URI'] ?? '', PHP_URL_PATH), '/');
    }

    public static function changeURI(string $uri): void
    {
        self::$uri = trim($uri, '/');
        self::$matched = false;
    }

    public static function regexMatch(string $pattern, callable $closure): bool
    {
        if (preg_match($pattern, self::$uri, $matches)) {
            self::$matched = true;
            $closure(...array_slice($matches, 1));
        }
        return self::$matched;
    }
}
