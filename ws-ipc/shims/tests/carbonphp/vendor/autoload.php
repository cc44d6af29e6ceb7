<?php

// Loads the stand-in for CarbonPHP.

spl_autoload_register(static function (string $class): void {
    $name = strtr(substr($class, strlen('CarbonPHP\\')), '\\', '/');
    $file = __DIR__ . "/carbonphp/src/$name.php";
    if (str_starts_with($class, 'CarbonPHP\\') && is_file($file)) {
        require $file;
    }
});
