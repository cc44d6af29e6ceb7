# frozen_string_literal: true

# What the tests of the shims ask for.

$count = 0
srand(1)

def answer(env, body)
  case env['REQUEST_URI']
  when '/body' then body
  when '/stdin' then $stdin.read
  when '/variables' then "#{env['PROBE']} #{utf8(ENV.fetch('PROBE'))} #{ENV.fetch('OTHER', 'none')}"
  when '/print'
    print 'printed, '
    'returned'
  when '/program'
    print 'before, '
    $stdout.flush
    system('echo program')
    nil
  when '/header'
    WS.header('X-WS-Close', '1000 bye')
    nil
  when '/split-header'
    WS.header('X-WS-Close', "1000\r\nX-WS-User: root")
  when '/throw'
    print 'half'
    raise IndexError, 'thrown as asked'
  when '/exit-0'
    print 'half'
    exit
  when '/exit-3' then exit(3)
  when '/signal' then Process.kill('KILL', Process.pid)
  when '/count' then ($count += 1).to_s
  when '/random' then rand.to_s
  when '/pid' then Process.pid.to_s
  when '/hang' then system('sleep', '600')
  when '/shell'
    system(env['COMMAND'])
    'done'
  when '/wait'
    File.write("#{env['FILE']}.begun", '')
    sleep(0.001) until File.exist?(env['FILE'])
    'waited'
  when '/descriptors'
    # The directory itself is open while it is read, and gone when its link is.
    Dir.children('/proc/self/fd').map { |name| "#{name} #{link(name)}" }.join("\n")
  end
end

# In the C locale values are binary.
def utf8(value)
  value.dup.force_encoding('UTF-8')
end

def link(name)
  File.readlink("/proc/self/fd/#{name}")
rescue Errno::ENOENT
  ''
end
