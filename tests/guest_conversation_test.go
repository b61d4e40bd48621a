package tests

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// conversation is something that host and guest do, which leaves the guest as it was.
type conversation struct {
	name string
	test func(*testing.T, lab)
}

// conversations are those on streams.
var conversations = []conversation{
	{"bytes flow on connections the host makes", bytesFromHost},
	{"bytes flow on connections the guest makes", bytesFromGuest},
	{"both ways at once", duplex},
	{"small and large guest windows", windows},
	{"half-close by the host", halfCloseByHost},
	{"half-close by the guest", halfCloseByGuest},
	{"the host stops reading for good", closeReadByHost},
	{"the guest stops reading for good", closeReadByGuest},
	{"payload behind the CONNECT line", pipelined},
	{"refused by the host", refusedByHost},
	{"refused by the guest", refusedByGuest},
	{"a guest that does not read", stalledGuest},
	{"a host program that does not read", stalledHost},
	{"900 connections of the host at once", manyFromHost},
	{"900 connections of the guest at once", manyFromGuest},
	{"connections of the host in a row", rowFromHost},
	{"connections of the guest in a row", rowFromGuest},
}

// One guest serves them all.
func TestGuestConversations(t *testing.T) {
	onEach(t, machines, func(t *testing.T, m machine) {
		l := newLab(t, m)
		l.mustBeOfItsKind(t)
		for _, c := range conversations {
			t.Run(c.name, func(t *testing.T) { c.test(t, l) })
		}
		for _, c := range messageConversations {
			t.Run(c.name, func(t *testing.T) { c.test(t, l.messages()) })
		}
		t.Run("no connection is left", func(t *testing.T) { noneLeft(t, l) })
	})
}

// mustBeOfItsKind wants the guest to have the rings that its name says.
func (l lab) mustBeOfItsKind(t *testing.T) {
	t.Helper()
	hello := l.call(t, script.Request{Op: script.Hello})
	if want := slices.Contains(l.flags, packed); hello.Packed != want {
		t.Errorf("packed rings: %v, want %v", hello.Packed, want)
	}
}

// bulk is how much the transfers move each way, less on variants.
const bulk = 64 * mib

func sendBulk(n int) []script.Step {
	return []script.Step{{Do: script.Send, Bytes: int64(n), Seed: 7}, {Do: script.CloseWrite}, {Do: script.Drain}}
}

var takeBulk = []script.Step{{Do: script.Drain}}

func bytesFromHost(t *testing.T, l lab) {
	h, g := l.fromHost(t, sendBulk(l.less(bulk)), takeBulk)
	mustAgree(t, h, g)
	h, g = l.fromHost(t, takeBulk, sendBulk(l.less(bulk)))
	mustAgree(t, h, g)
}

func bytesFromGuest(t *testing.T, l lab) {
	h, g := l.fromGuest(t, sendBulk(l.less(bulk)), takeBulk)
	mustAgree(t, h, g)
	h, g = l.fromGuest(t, takeBulk, sendBulk(l.less(bulk)))
	mustAgree(t, h, g)
}

func duplex(t *testing.T, l lab) {
	n := int64(l.less(16 * mib))
	host, guest := []script.Step{{Do: script.Duplex, Bytes: n, Seed: 1}}, []script.Step{{Do: script.Duplex, Bytes: n, Seed: 2}}
	h, g := l.fromHost(t, host, guest)
	mustAgree(t, h, g)
	h, g = l.fromGuest(t, host, guest)
	mustAgree(t, h, g)
}

func windows(t *testing.T, l lab) {
	for _, size := range []uint64{4 * kib, mib} {
		port := newPort()
		l.call(t, script.Request{
			Op: script.Listen, Port: port, BufferSize: size,
			Steps: []script.Step{{Do: script.Echo}},
		})
		h := script.Run(l.dial(t, port), []script.Step{{Do: script.Duplex, Bytes: 4 * mib, Seed: 3}}, nil)
		mustAgree(t, h, l.reports(t, port, 1)[0].Report)
	}
}

// closedFirst ends its direction, then still takes what the other end sends
// because of it.
var (
	closedFirst = []script.Step{
		{Do: script.Send, Bytes: 100 * kib, Seed: 4}, {Do: script.CloseWrite}, {Do: script.Drain},
	}
	closedLast = []script.Step{{Do: script.Drain}, {Do: script.Send, Bytes: 2 * mib, Seed: 5}}
)

func halfCloseByHost(t *testing.T, l lab) {
	h, g := l.fromHost(t, closedFirst, closedLast)
	mustAgree(t, h, g)
	h, g = l.fromGuest(t, closedFirst, closedLast)
	mustAgree(t, h, g)
}

func halfCloseByGuest(t *testing.T, l lab) {
	h, g := l.fromHost(t, closedLast, closedFirst)
	mustAgree(t, h, g)
	h, g = l.fromGuest(t, closedLast, closedFirst)
	mustAgree(t, h, g)
}

// refuseReading shuts its read side, has the other end run into it, and still sends.
var (
	refuseReading = []script.Step{
		{Do: script.CloseRead}, {Do: script.Send, Bytes: mib, Seed: 6}, {Do: script.CloseWrite},
	}
	runIntoIt = []script.Step{{Do: script.Flood, Seed: 8}, {Do: script.Receive, Bytes: mib}}
)

func closeReadByHost(t *testing.T, l lab) {
	port := l.serve(t, runIntoIt...)
	c := l.dial(t, port)
	// The socket stays open: its close would end both ways.
	h := script.Run(keepOpen{c}, refuseReading, nil)
	g := l.reports(t, port, 1)[0].Report
	mustRefuse(t, g, h)
}

func closeReadByGuest(t *testing.T, l lab) {
	port := l.serve(t, slices.Concat(refuseReading, []script.Step{{Do: script.Wait, Gate: t.Name()}})...)
	h := script.Run(l.dial(t, port), runIntoIt, nil)
	l.call(t, script.Request{Op: script.Open, Gate: t.Name()})
	g := l.reports(t, port, 1)[0].Report
	mustRefuse(t, h, g)
}

// keepOpen is a connection that its script does not close.
type keepOpen struct{ *net.UnixConn }

func (keepOpen) Close() error { return nil }

// mustRefuse checks that the flooding end got EPIPE and every byte of the other's.
func mustRefuse(t *testing.T, flooding, refusing script.Report) {
	t.Helper()
	if err := refusing.Err(); err != nil {
		t.Errorf("the end that refuses to read: %v", err)
	}
	if err := flooding.Err(); err != nil {
		t.Errorf("the end that writes: %v", err)
	}
	if flooding.FloodErrno != syscall.EPIPE {
		t.Errorf("writing ended with %v, want EPIPE", flooding.FloodErrno)
	}
	if err := script.Arrived("against it", refusing, flooding); err != nil {
		t.Error(err)
	}
}

func pipelined(t *testing.T, l lab) {
	port := l.serve(t, script.Step{Do: script.Echo})
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: l.UDS, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(limit))
	fmt.Fprintf(c, "CONNECT %d\nhello ", port)
	fmt.Fprint(c, "guest")
	c.CloseWrite()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	ok, echo, _ := strings.Cut(string(got), "\n")
	if !strings.HasPrefix(ok, "OK ") || echo != "hello guest" {
		t.Errorf("got %q", got)
	}
}

func refusedByHost(t *testing.T, l lab) {
	const tries = 21
	resp := l.call(t, script.Request{Op: script.Dial, Port: newPort(), Count: tries})
	var took []time.Duration
	for _, r := range resp.Reports {
		if r.Errno != syscall.ECONNRESET {
			t.Fatalf("connect: %v, want ECONNRESET", r.Err())
		}
		took = append(took, r.Connect)
	}
	mustBeQuick(t, took)
}

func refusedByGuest(t *testing.T, l lab) {
	const tries = 21
	var took []time.Duration
	for range tries {
		begin := time.Now()
		c, err := l.Dial(newPort())
		if err == nil {
			c.Close()
			t.Fatal("a port where nobody listens accepted")
		}
		if !errors.Is(err, io.EOF) {
			t.Fatalf("%v, want end of file", err)
		}
		took = append(took, time.Since(begin))
	}
	mustBeQuick(t, took)
}

// mustBeQuick wants refusals in less than 100 ms; the median forgives a machine that
// was busy with something else.
func mustBeQuick(t *testing.T, took []time.Duration) {
	t.Helper()
	slices.Sort(took)
	t.Logf("refused within %v, median %v", took[len(took)-1], took[len(took)/2])
	if median := took[len(took)/2]; median >= 100*time.Millisecond {
		t.Errorf("refused after %v (median), want less than 100 ms", median)
	}
}

// stalledSize is more than all buffers on the way hold.
const stalledSize = 4 * mib

func stalledGuest(t *testing.T, l lab) {
	port := l.serve(t, script.Step{Do: script.Wait, Gate: t.Name()}, script.Step{Do: script.Drain})
	c := l.dial(t, port)
	stalled := background(func() script.Report {
		return script.Run(c, []script.Step{{Do: script.Send, Bytes: stalledSize, Seed: 9}}, nil)
	})
	l.mustWork(t)
	l.call(t, script.Request{Op: script.Open, Gate: t.Name()})
	mustAgree(t, stalled(), l.reports(t, port, 1)[0].Report)
}

func stalledHost(t *testing.T, l lab) {
	port, from := l.listen(t)
	stalled := l.callLater(script.Request{
		Op: script.Dial, Port: port, Steps: []script.Step{{Do: script.Send, Bytes: stalledSize, Seed: 10}},
	})
	c := accept(t, from)
	l.mustWork(t)
	h := script.Run(c, takeBulk, nil)
	g := stalled()
	if g.err != nil {
		t.Fatal(g.err)
	}
	mustAgree(t, h, g.Reports[0].Report)
}

func noneLeft(t *testing.T, l lab) {
	vm.Eventually(t, limit, "no connection is open", func() bool {
		return l.Scrape(t).Sum("vhost_user_vsock_connections") == 0
	})
}
