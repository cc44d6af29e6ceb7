<?php

if (!function_exists('startApplication')) {
    function startApplication($uri = ''): ?bool
    {
        return CarbonPHP\CarbonPHP::startApplication($uri);
    }
}
