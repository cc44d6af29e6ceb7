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
        $channel = CarbonPHP::$app_root . self::$channelDirectory . self::safePipeName($channelName);
        foreach (glob("$channel*.fifo") as $path) {
            $fifo = fopen($path, 'wb+');
            fwrite($fifo, $data . self::$fifoDelimiter);
            fclose($fifo);
        }
    }
}
