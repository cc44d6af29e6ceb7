<?php

namespace CarbonPHP;

abstract class Application extends Route
{
    abstract public function startApplication(string $uri): bool;
}
