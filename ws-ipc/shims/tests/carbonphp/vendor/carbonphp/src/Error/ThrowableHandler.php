<?php

namespace CarbonPHP\Error;

use CarbonPHP\CarbonPHP;
use CarbonPHP\Enums\ThrowableReportDisplay;

class ThrowableHandler
{
    public static bool $storeReport = false;
    public static ThrowableReportDisplay $throwableReportDisplay =
        ThrowableReportDisplay::FULL_DEFAULT;

    /** A deprecation ends the process, a warning does not. */
    public static function start(): void
    {
        set_error_handler(static function (int $level, string $text): bool {
            if (!(error_reporting() & $level)) {
                return false;
            }
            $isRecoverable = ($level & (E_DEPRECATED | E_USER_DEPRECATED)) === 0;
            self::generateLog(new \ErrorException($text, 0, $level), $isRecoverable);
            return $isRecoverable;
        });
    }

    public static function generateLog(?\Throwable $e = null, bool $return = false): array
    {
        error_log('report: ' . $e?->getMessage());
        if (self::$storeReport) {
            $directory = CarbonPHP::$app_root . 'logs/';
            is_dir($directory) || mkdir($directory, 0755, true);
            file_put_contents($directory . getmypid() . '.log', "$e\n", FILE_APPEND);
        }
        if (!$return) {
            fclose(STDOUT);
            fclose(STDERR);
            ob_start();
            exit(1);
        }
        return [];
    }
}
