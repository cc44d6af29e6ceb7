<?php

return fn (array $server, string $body): string => "$body, said {$server['REMOTE_ADDR']}";
