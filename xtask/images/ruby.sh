. ./zoo.sh
from_base
install ruby
program /zoo/probe <<'END'
#!/usr/bin/ruby
require 'digest'
require 'json'
require 'socket'
require 'zlib'

puts JSON.generate({ "primes" => (2..50).select { |n| (2...n).none? { |d| (n % d).zero? } } })
puts Digest::SHA256.hexdigest('a' * 100_000)
puts 2**100
server = TCPServer.new('127.0.0.1', 0)
echo = Thread.new { (client = server.accept).write(client.gets.upcase); client.close }
TCPSocket.open('127.0.0.1', server.addr[1]) { |s| s.puts 'from a thread'; puts s.gets }
echo.join
reader, writer = IO.pipe
child = fork { writer.puts "in a child"; exit!(3) }
Process.wait(child)
puts reader.gets, $?.exitstatus
puts Zlib.inflate(Zlib.deflate('whole'))
trap(:USR1) { puts 'asked' }
Process.kill(:USR1, Process.pid)
sleep 0.1
GC.start
puts `echo from a shell`
END
expect
finish --config.cmd ruby --config.env LANG=C.UTF-8
