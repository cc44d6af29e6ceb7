<?php

// Loads the stand-in for CarbonPHP.

spl_autoload_register(static function (string $class): void {
    $file = __DIR__ . '/carbonphp/src/' . strtr(substr($class, strlen('CarbonPHP\\')), '\\', '/') . '.php';
    if (str_starts_with($class, 'CarbonPHP\\') && is_file($file)) {
        require $file;
    }
});
