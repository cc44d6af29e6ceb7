<?php

/*
 * Makes a directory with the application in it, as an installation looks:
 *
 *     php make-site.php DIRECTORY
 *
 * It runs on the stand-in for CarbonPHP, or, if WS_CARBONPHP_ROOT names the directory of a
 * CarbonPHP (its vendor/autoload.php is used if there is one, else PSR-4), on that one.
 */

declare(strict_types=1);

$site = $argv[1] ?? exit("usage: php make-site.php DIRECTORY\n");
$root = rtrim((string) getenv('WS_CARBONPHP_ROOT'), '/');
is_dir($site) || mkdir($site, recursive: true);
copy(__DIR__ . '/index.php', "$site/index.php");
if ($root === '') {
    symlink(__DIR__ . '/vendor', "$site/vendor");
} elseif (is_file("$root/vendor/autoload.php")) {
    symlink(realpath("$root/vendor"), "$site/vendor");
} else {
    mkdir("$site/vendor");
    $code = sprintf(
        "<?php\n\nrequire %s;\nload_carbonphp(%s);\n",
        var_export(__DIR__ . '/psr4.php', true),
        var_export(realpath($root), true),
    );
    file_put_contents("$site/vendor/autoload.php", $code);
}
