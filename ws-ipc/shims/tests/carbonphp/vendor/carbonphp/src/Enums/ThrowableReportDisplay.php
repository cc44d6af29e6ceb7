<?php

namespace CarbonPHP\Enums;

enum ThrowableReportDisplay
{
    case FULL_DEFAULT;
    case CLI_MINIMAL;
}
