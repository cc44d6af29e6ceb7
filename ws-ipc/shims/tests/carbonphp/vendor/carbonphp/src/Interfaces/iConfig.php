<?php

namespace CarbonPHP\Interfaces;

interface iConfig
{
    public static function configuration(): array;
}
