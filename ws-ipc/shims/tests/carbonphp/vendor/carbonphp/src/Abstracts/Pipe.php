<?php

namespace CarbonPHP\Abstracts;

use CarbonPHP\CarbonPHP;

/** Writes to FIFOs. A name means each FIFO whose name begins with it. */
abstract class Pipe
{
    public static string $fifoDelimiter = PHP_EOL . __CLASS__ . ':' . __LINE__ . PHP_EOL;
    public static string $channelDirectory = 'tmp/fifo/';

    public static function safePipeName(string $name): string
    {
        return strtr($name, './', '_:');
    }

    public static function sendToFifoChannel(string $channelName, string $data): void
    {
        $directory = CarbonPHP::$app_root . self::$channelDirectory;
        foreach (glob($directory . self::safePipeName($channelName) . '*.fifo') as $path) {
            $fifo = fopen($path, 'wb+');
            fwrite($fifo, $data . self::$fifoDelimiter);
            fclose($fifo);
        }
    }
}
