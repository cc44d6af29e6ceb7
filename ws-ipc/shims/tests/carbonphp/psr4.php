<?php

// Loads a CarbonPHP that came without Composer. Of what it requires, psr/log has to be in PHP's
// include_path (as Debian's php-psr-log is); its pages of errors, which want Mustache, are empty.

declare(strict_types=1);

function load_carbonphp(string $root): void
{
    spl_autoload_register(static function (string $class) use ($root): void {
        if (str_starts_with($class, 'CarbonPHP\\')) {
            $parts = explode('\\', substr($class, strlen('CarbonPHP\\')));
            $name = array_pop($parts);
            // Its directories are in lower case.
            $directory = implode('/', [$root, 'carbonphp', ...array_map(strtolower(...), $parts)]);
            $file = "$directory/$name.php";
        } elseif (str_starts_with($class, 'Psr\\Log\\')) {
            $file = stream_resolve_include_path(strtr($class, '\\', '/') . '.php');
        } elseif ($class === 'Mustache_Engine') {
            eval('class Mustache_Engine { public function render($page, $values) { return ""; } }');
        }
        if (isset($file) && $file !== false && is_file($file)) {
            require $file;
        }
    });
}
