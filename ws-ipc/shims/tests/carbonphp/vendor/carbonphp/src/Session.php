<?php

namespace CarbonPHP;

/** The first one made on the command line only prepares sessions, each other one begins one. */
class Session
{
    protected static ?Session $singleton = null;
    public static ?string $session_id;

    public function __construct(bool $isRemote = false)
    {
        if (self::$singleton === null) {
            self::$singleton = $this;
            ini_set('session.use_strict_mode', '1');
            if (CarbonPHP::$cli) {
                return;
            }
        }
        session_start();
        self::$session_id = session_id();
        $_SESSION['id'] ??= 0;
    }

    public static function resume(?string $id = null): self
    {
        self::$session_id = $id ?? self::$session_id;
        session_id(self::$session_id);
        session_start();
        return self::$singleton;
    }
}
