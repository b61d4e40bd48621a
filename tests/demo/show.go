package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// The ports of the conversations, and how much the last one moves.
const (
	echoPort  = 7    // in the guest
	bulkPort  = 9    // in the guest
	greetPort = 1234 // on the host
	idlePort  = 1235 // on the host, of a program that reads late
	bulk      = 64 << 20
	unread    = 4 << 20 // more than the host socket and the window hold
)

// patience bounds each part of the show.
const patience = 30 * time.Second

// show is the whole demo.
func show(s *stage) {
	s.title("The daemon starts")
	f := vm.StartFleet(s, "demo")
	d := f.Of("demo")
	s.Logf("frontends connect to  %s", d.Socket)
	s.Logf("host programs dial    %s", d.UDS)

	s.title("A guest boots: User-Mode Linux, with the vsock driver of its own kernel")
	g := vm.BootUML(s, d)

	callGuest(s, d, g)
	callHost(s, d, g)
	transfer(s, d, g)
	explain(s, f, d, g)
	count(s, d)

	s.title("The guest powers off, the daemon gets SIGTERM")
	s.must(g.Send(script.Request{Op: script.PowerOff}))
	g.AwaitEnd(s)
}

// callGuest talks to an echo server in the guest as any host program does.
func callGuest(s *stage, d *vm.Daemon, g *vm.Guest) {
	s.title("Host to guest: an echo server listens on the guest's port %d", echoPort)
	serve(s, g, echoPort, script.Step{Do: script.Echo})
	c, err := net.Dial("unix", d.UDS)
	s.must(err)
	defer c.Close()
	from := bufio.NewReader(c)
	for _, line := range []string{fmt.Sprintf("CONNECT %d", echoPort), "Hello, guest!", "Are you there?"} {
		s.say(c, line)
		s.hear(from)
	}
}

// callHost has the guest dial a host program and greet it; then it echoes.
func callHost(s *stage, d *vm.Daemon, g *vm.Guest) {
	s.title("Guest to host: a program listens on %s_%d, the guest dials port %[2]d", filepath.Base(d.UDS), greetPort)
	l := d.Listen(s, greetPort)
	s.must(l.SetDeadline(time.Now().Add(patience)))
	ended := make(chan error, 1)
	go func() {
		_, err := g.Call(script.Request{
			Op: script.Dial, Port: greetPort,
			Steps: []script.Step{{Do: script.Say, Text: "Hello, host!\n"}, {Do: script.Echo}},
		}, patience)
		ended <- err
	}()
	c, err := l.AcceptUnix()
	s.must(err)
	defer c.Close()
	from := bufio.NewReader(c)
	s.hear(from)
	s.say(c, "Who is calling?")
	s.hear(from)
	s.must(c.CloseWrite())
	s.must(<-ended)
}

// transfer moves a lot both ways at once and compares the sums.
func transfer(s *stage, d *vm.Daemon, g *vm.Guest) {
	s.title("%d MiB each way at once", bulk>>20)
	serve(s, g, bulkPort, script.Step{Do: script.Duplex, Bytes: bulk, Seed: 1})
	c, err := d.Dial(bulkPort)
	s.must(err)
	begin := time.Now()
	host := script.Run(c, []script.Step{{Do: script.Duplex, Bytes: bulk, Seed: 2}}, nil)
	took := time.Since(begin)
	s.must(host.Err())
	resp, err := g.Call(script.Request{Op: script.Reports, Port: bulkPort, Count: 1}, patience)
	s.must(err)
	guest := resp.Reports[0]
	s.must(guest.Err())
	s.Logf("host to guest  sha256 %.16s…  sent", host.SentSum)
	s.Logf("               sha256 %.16s…  received", guest.ReceivedSum)
	s.Logf("guest to host  sha256 %.16s…  sent", guest.SentSum)
	s.Logf("               sha256 %.16s…  received", host.ReceivedSum)
	if host.SentSum != guest.ReceivedSum || guest.SentSum != host.ReceivedSum {
		s.Fatalf("the sums differ")
	}
	s.Logf("%.1f s, %.0f MiB/s", took.Seconds(), 2*float64(bulk>>20)/took.Seconds())
}

// explain has a host program keep the guest waiting, which the daemon's client tells.
func explain(s *stage, f *vm.Fleet, d *vm.Daemon, g *vm.Guest) {
	s.title("A program on the host does not read what the guest sends it: vhost-user-vsock ctl connections")
	l := d.Listen(s, idlePort)
	s.must(l.SetDeadline(time.Now().Add(patience)))
	ended := make(chan error, 1)
	go func() {
		_, err := g.Call(script.Request{
			Op: script.Dial, Port: idlePort, Steps: []script.Step{{Do: script.Send, Bytes: unread}},
		}, patience)
		ended <- err
	}()
	c, err := l.AcceptUnix()
	s.must(err)
	defer c.Close()
	var table string
	vm.Eventually(s, patience, "the guest's connection waits for the host program", func() bool {
		table = f.MustCtl(s, "connections")
		return strings.Contains(table, "host to read")
	})
	s.print(table)
	n, err := io.Copy(io.Discard, c)
	s.must(err)
	s.must(<-ended)
	s.Logf("then it reads: %d MiB", n>>20)
}

// told are the metrics to look at first.
var told = []string{
	"payload_bytes_total", "handshakes_total", "resets_total", "host_stalls_total",
	"connection_stall_seconds_total", "request_duration_seconds_count", "loop_turn_seconds_count",
}

// count shows the metrics that are told first.
func count(s *stage, d *vm.Daemon) {
	s.title("The metrics to look at first, of those at %s", d.Metrics)
	for line := range strings.Lines(d.Scrape(s).String()) {
		name, _, _ := strings.Cut(strings.TrimPrefix(line, "vhost_user_vsock_"), "{")
		if slices.Contains(told, name) {
			s.print(line)
		}
	}
}

func serve(s *stage, g *vm.Guest, port uint32, steps ...script.Step) {
	_, err := g.Call(script.Request{Op: script.Listen, Port: port, Steps: steps}, patience)
	s.must(err)
}

// say sends the guest a line.
func (s *stage) say(to io.Writer, line string) {
	_, err := fmt.Fprintln(to, line)
	s.must(err)
	s.Logf("host → guest  %s", line)
}

// hear takes a line of the guest's.
func (s *stage) hear(from *bufio.Reader) {
	line, err := from.ReadString('\n')
	s.must(err)
	s.Logf("host ← guest  %s", strings.TrimSuffix(line, "\n"))
}
