# frozen_string_literal: true

require_relative '../fork'

REQUEST = "35:CONTENT_LENGTH\u00003\0REQUEST_URI\0/t\u00fc,\0,a\0b".b

def test(claim)
  yield
  puts "ok - #{claim}"
end

def assert_equal(expected, actual)
  raise "expected #{expected.inspect}, not #{actual.inspect}" unless expected == actual
end

def assert_raises(error, about)
  yield
rescue error
  nil
else
  raise "#{about.inspect} is not refused"
end

test 'request is taken apart' do
  env, body = WS.parse_request(REQUEST)
  assert_equal({ 'CONTENT_LENGTH' => '3', 'REQUEST_URI' => "/t\u00fc," }, env)
  assert_equal("a\0b", body)
  assert_equal(Encoding::BINARY, body.encoding)
end

test 'what has to come is waited for' do
  REQUEST.bytesize.times { |size| assert_equal(nil, WS.parse_request(REQUEST.byteslice(0, size))) }
end

test 'what follows is ignored' do
  assert_equal(WS.parse_request(REQUEST), WS.parse_request("#{REQUEST}more".b))
end

test 'what is no request is refused' do
  [
    'x', ':', '-1:,', '1234567890', '3:abc,', "4:A\0B\0,", "17:CONTENT_LENGTH\u00000\0;",
    "18:CONTENT_LENGTH\0-1\0,", "16:CONTENT_LENGTH\0\0,"
  ].each do |bytes|
    assert_raises(WS::InvalidRequest, bytes) { WS.parse_request(bytes.b) }
  end
end

test 'answer announces its length in bytes' do
  answer = WS.build_answer(['X-WS-Type: text'], "\u00fc")
  assert_equal("X-WS-Type: text\r\nContent-Length: 2\r\n\r\n\u00fc".b, answer)
  assert_equal("Content-Length: 0\r\n\r\n", WS.build_answer([], ''))
end

test 'what is no header is refused' do
  [['', 'a'], ['A B', 'a'], ['A:', 'a'], ["A\n", 'a'], ['A', "a\rb"]].each do |header|
    assert_raises(ArgumentError, header) { WS.header(*header) }
  end
end
