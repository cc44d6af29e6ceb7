# frozen_string_literal: true

# Runs a Ruby application for ws: loads it once, then answers each request in a new process.
#
#     ruby fork.rb app.rb               a forked process per request
#     ruby fork.rb --worker app.rb      all requests one after another in this process
#
# The application is a file that defines a method `answer`. What that prints, and what it returns
# (a String or nil), is the answer:
#
#     # Loaded once: gems, configuration, templates.
#     def answer(env, body)
#       "#{body}, said #{env['REMOTE_ADDR']}"
#     end
#
# `env` holds the variables of CGI, in UTF-8, which are also in ENV, in the encoding of the locale;
# `body` is a binary String, which is also on $stdin. WS.header('X-WS-Close', '1000 bye') adds a
# header to the answer. What programs that it starts write to stdout belongs to the answer, too. To
# answer is to return: who raises or exits has not answered, and what was printed before is dropped.
#
# Whatever the application opens while it is loaded is shared by all processes, which no connection
# to a database stands, and threads are not forked: begin those in the method.
#
# Descriptor 0 is a listening Unix socket, the protocol is SCGI, the answer is CGI's with a
# Content-Length. SIGTERM ends it after the requests that it has accepted. Needs Ruby 3.0.

require 'fcntl'
require 'socket'
require 'tempfile'

module WS
  MAX_REQUEST_SIZE = 64 << 20
  MAX_CHILDREN = 256

  class InvalidRequest < StandardError; end

  @headers = []

  module_function

  # Adds a header to the answer: X-WS-Type, X-WS-Close, X-WS-User, Status, Set-Cookie, ...
  def header(name, value)
    unless name.match?(/\A[A-Za-z0-9-]+\z/) && !value.match?(/[\x00-\x1F\x7F]/)
      raise ArgumentError, "not a header: #{name}"
    end

    @headers << "#{name}: #{value}"
  end

  # Takes an SCGI request apart: its variables and its body; nil if more has to come.
  def parse_request(bytes)
    size = bytes[/\A\d{1,9}(?=:)/n]
    unless size || bytes.match?(/\A\d{0,9}\z/n)
      raise InvalidRequest, 'it does not begin with a length'
    end

    comma = size.to_s.bytesize + 1 + size.to_i
    return if size.nil? || bytes.bytesize <= comma

    fields = bytes.byteslice(size.bytesize + 1, size.to_i).split("\0", -1)
    unless bytes.getbyte(comma) == 44 && fields.pop == '' && fields.size.even?
      raise InvalidRequest, 'its variables are malformed'
    end

    env = fields.each_slice(2).to_h { |pair| pair.map { |text| text.force_encoding('UTF-8') } }
    length = env.fetch('CONTENT_LENGTH', '')
    raise InvalidRequest, 'it does not tell the length of its body' unless length.match?(/\A\d+\z/)
    return if bytes.bytesize < comma + 1 + length.to_i

    [env, bytes.byteslice(comma + 1, length.to_i)]
  end

  def build_answer(headers, body)
    [*headers, "Content-Length: #{body.bytesize}", '', ''].join("\r\n").b + body.b
  end

  # Runs the application for one request and returns the answer.
  def run(application, env, body)
    @headers.clear
    ENV.update(env)
    log = $stdout.dup
    output = anonymous_file
    input = anonymous_file(body)
    $stdin.reopen(input)
    $stdout.reopen(output)
    begin
      $stdout.write(application.call(env, body))
      $stdout.flush
      output.rewind
      build_answer(@headers, output.read)
    rescue Exception => e # rubocop:disable Lint/RescueException -- who exits has not answered
      warn(e.full_message(highlight: false))
      build_answer(['Status: 500'], '')
    ensure
      $stdout.reopen(log)
      [log, input, output].each(&:close)
    end
  end

  # A file, since bodies may be larger than a pipe. In memory if possible: to delete it costs a disk
  # milliseconds.
  def anonymous_file(content = '')
    directory = '/dev/shm' if File.writable?('/dev/shm')
    file = Tempfile.create('ws', directory, binmode: true)
    File.unlink(file.path)
    file.write(content)
    file.rewind
    file
  end

  # Writes the whole answer, unless nobody waits for it any more.
  def deliver(connection, answer)
    connection.write(answer)
    connection.close
  rescue SystemCallError
    nil
  end

  # Waits for connections and their requests, and for the ends of the children that answer them.
  class ForkServer
    def initialize(listener, application)
      @listener = listener
      @application = application
      @arriving = {} # Connections that are being read, and what came.
      @children = {} # Process ids and connections; nil once nobody waits there.
      @is_ending = false
      # The handler of a signal writes to one end, which wakes the loop that waits at the other.
      @wakeup, @waker = IO.pipe
    end

    def run
      trap('CHLD') { wake }
      trap('TERM') do
        @is_ending = true
        wake
      end
      GC.start
      step until @is_ending && @arriving.empty? && @children.empty?
    end

    private

    def wake
      @waker.write_nonblock('.', exception: false)
    end

    def step
      wait.each do |source|
        if source == @listener then accept
        elsif source == @wakeup then source.read_nonblock(4096, exception: false)
        elsif @arriving.key?(source) then read(source)
        else hang_up(source)
        end
      end
      reap
    end

    # Returns what can be read.
    def wait
      sources = [@wakeup, *@arriving.keys, *@children.values.compact]
      sources << @listener if !@is_ending && @arriving.size + @children.size < MAX_CHILDREN
      IO.select(sources).first
    end

    def accept
      connection = @listener.accept_nonblock(exception: false)
      @arriving[connection] = ''.b unless connection == :wait_readable
    rescue SystemCallError
      nil # Gone again.
    end

    def read(connection)
      bytes = @arriving[connection]
      more = connection.read_nonblock(1 << 16, exception: false)
      return if more == :wait_readable

      bytes << more.to_s
      request = WS.parse_request(bytes)
      return if request.nil? && more && bytes.bytesize < MAX_REQUEST_SIZE

      @arriving.delete(connection)
      request ? answer(connection, *request) : connection.close
    rescue SystemCallError, InvalidRequest => e
      warn("fork.rb: cannot read a request: #{e.message}")
      @arriving.delete(connection)
      connection.close
    end

    def answer(connection, env, body)
      pid = fork { answer_as_child(connection, env, body) }
      begin
        Process.setpgid(pid, pid) # The child does the same: its group is there whoever is first.
      rescue SystemCallError
        nil # It has ended.
      end
      @children[pid] = connection
    rescue SystemCallError => e
      warn("fork.rb: cannot fork: #{e.message}")
      connection.close
    end

    def answer_as_child(connection, env, body)
      Process.setpgid(0, 0)
      become_child
      WS.deliver(connection, WS.run(@application, env, body))
      exit!(true)
    rescue Exception => e # rubocop:disable Lint/RescueException -- it must not get out of here
      warn(e.full_message(highlight: false))
    ensure
      # Not by way of the parent's at_exit blocks.
      exit!(false)
    end

    # Lets go of what is the parent's. Ruby itself sees to it that random numbers differ.
    def become_child
      trap('CHLD', 'DEFAULT')
      trap('TERM', 'DEFAULT')
      [@listener, @wakeup, @waker, *@arriving.keys, *@children.values.compact].each(&:close)
    end

    # The request was read to its end: what can be read then is a hang-up.
    def hang_up(connection)
      pid = @children.key(connection)
      kill_group(pid)
      @children[pid] = nil
      connection.close
    end

    def reap
      @children.each_key.to_a.each do |pid|
        is_over = ended?(pid)
        # What it started dies with it, as long as its number cannot be another's.
        kill_group(pid) if is_over
        _, status = Process.wait2(pid, Process::WNOHANG) unless is_over == false
        next unless status

        # The number is at least taken while its group has members.
        kill_group(pid) if is_over.nil?
        report_end(pid, status)
      end
    end

    # Tells whether a child has ended, and leaves it to be reaped: Ruby has no waitid. Nil where
    # /proc may not be read.
    def ended?(pid)
      # The state follows the name, which may hold anything.
      File.binread("/proc/#{pid}/stat").match?(/.*\) [ZX]/m)
    rescue SystemCallError
      nil
    end

    def report_end(pid, status)
      connection = @children.delete(pid) or return
      connection.close
      warn("fork.rb: process ended badly: #{status}") unless status.success?
    end

    def kill_group(pid)
      Process.kill('KILL', -pid)
    rescue SystemCallError
      nil # It is empty.
    end
  end

  # Answers requests one after another.
  class Worker
    def initialize(listener, application)
      @listener = listener
      @application = application
    end

    def run
      wakeup, waker = IO.pipe
      trap('TERM') { waker.close }
      own_environment = ENV.to_h
      until IO.select([@listener, wakeup]).first.include?(wakeup)
        connection = @listener.accept_nonblock(exception: false)
        next if connection == :wait_readable

        request = read_request(connection)
        ENV.replace(own_environment)
        WS.deliver(connection, WS.run(@application, *request)) if request
        connection.close
      end
    end

    private

    # Reads a whole request; nil if it is none, or the peer hung up first.
    def read_request(connection)
      bytes = ''.b
      until (request = WS.parse_request(bytes))
        bytes << connection.readpartial(1 << 16)
        return if bytes.bytesize > MAX_REQUEST_SIZE
      end
      request
    rescue EOFError, SystemCallError, InvalidRequest => e
      warn("fork.rb: cannot read a request: #{e.message}")
      nil
    end
  end

  # Takes the socket from descriptor 0, which becomes what a program may read from.
  def take_listener
    listener = UNIXServer.for_fd($stdin.fcntl(Fcntl::F_DUPFD, 3))
    listener.close_on_exec = true
    abort('fork.rb: descriptor 0 is no listening socket') unless listens?(listener)
    $stdin.reopen(File::NULL)
    listener
  rescue SystemCallError => e
    abort("fork.rb: descriptor 0 is no listening socket: #{e.message}")
  end

  def listens?(socket)
    socket.getsockopt(:SOCKET, :ACCEPTCONN).bool
  end

  def main(arguments)
    is_worker = arguments.first == '--worker'
    file = arguments[is_worker ? 1 : 0] or abort('usage: ruby fork.rb [--worker] APPLICATION.rb')
    listener = take_listener
    Encoding.default_external = Encoding::UTF_8
    load(File.expand_path(file))
    # What is buffered now would be part of every answer.
    $stdout.flush
    (is_worker ? Worker : ForkServer).new(listener, TOPLEVEL_BINDING.receiver.method(:answer)).run
  end
end

WS.main(ARGV) if $PROGRAM_NAME == __FILE__
