<?php

namespace CarbonPHP\Interfaces;

interface iCommand
{
    public static function description(): string;
    public function usage(): void;
    public function run(array $argv): void;
    public function cleanUp(): void;
}
