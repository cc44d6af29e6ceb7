sub { my ($env, $body) = @_; return "$body, said $env->{REMOTE_ADDR}" };
