<?php

namespace CarbonPHP\Programs;

use CarbonPHP\Abstracts\Pipe;
use CarbonPHP\Interfaces\iCommand;

/** What a web request has of it. It serves nobody: that is for the bridge to do. */
class WebSocket implements iCommand
{
    public static mixed $startApplicationCallback = null;
    public static mixed $validateUserCallback = null;
    public static mixed $socket = null;
    public static int $port = 8888;
    public static bool $verifyIP = true;
    public static int $streamSelectSeconds = 10;

    public static function sendToAllWebsSocketConnections(string $data): void
    {
        Pipe::sendToFifoChannel('global_pipe', $data);
    }

    public static function description(): string
    {
        return 'Is taken the place of by the bridge.';
    }

    public function usage(): void
    {
    }

    public function run(array $argv): void
    {
        throw new \LogicException('the bridge has not taken the place of this class');
    }

    public function cleanUp(): void
    {
    }
}
