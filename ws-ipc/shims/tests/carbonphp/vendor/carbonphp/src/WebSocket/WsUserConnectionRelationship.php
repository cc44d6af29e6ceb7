<?php

namespace CarbonPHP\WebSocket;

class WsUserConnectionRelationship
{
    public function __construct(
        public string $userId,
        public mixed $userPipe,
        public mixed $userSocket,
        public string $sessionId,
        public array $headers,
        public string $port,
        public string $ip,
    ) {
    }
}
