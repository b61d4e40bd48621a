package tests

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
)

const (
	atOnce = 900
	inARow = 3000 // less on variants
	callKB = 1 * kib
)

// ask sends a little and takes the echo.
var ask = []script.Step{
	{Do: script.Send, Bytes: callKB, Seed: 11}, {Do: script.Receive, Bytes: callKB}, {Do: script.CloseWrite}, {Do: script.Drain},
}

func manyFromHost(t *testing.T, l lab) {
	port := l.serve(t, script.Step{Do: script.Echo})
	conns := make([]*net.UnixConn, atOnce)
	for i := range conns {
		conns[i] = l.dial(t, port) // all stay open
	}
	each(conns, func(c *net.UnixConn) {
		if r := script.Run(c, ask, nil); r.Err() != nil || r.ReceivedSum != r.SentSum {
			t.Errorf("host: %v, %d bytes back", r.Err(), r.Received)
		}
	})
	mustEcho(t, l.reports(t, port, atOnce))
}

func manyFromGuest(t *testing.T, l lab) {
	port, from := l.listen(t)
	wait := l.callLater(script.Request{Op: script.Dial, Port: port, Count: atOnce, Parallel: atOnce, Steps: ask})
	conns := make([]*net.UnixConn, atOnce)
	for i := range conns {
		conns[i] = accept(t, from) // all wait for an answer
	}
	each(conns, func(c *net.UnixConn) {
		if r := script.Run(c, []script.Step{{Do: script.Echo}}, nil); r.Err() != nil {
			t.Errorf("host: %v", r.Err())
		}
	})
	a := wait()
	if a.err != nil {
		t.Fatal(a.err)
	}
	mustEcho(t, a.Reports)
}

func rowFromHost(t *testing.T, l lab) {
	port, n := l.serve(t, script.Step{Do: script.Echo}), l.less(inARow)
	for i := range n {
		if r := script.Run(l.dial(t, port), ask, nil); r.Err() != nil || r.ReceivedSum != r.SentSum {
			t.Fatalf("connection %d: %v, %d bytes back", i, r.Err(), r.Received)
		}
	}
	mustEcho(t, l.reports(t, port, n))
}

func rowFromGuest(t *testing.T, l lab) {
	port, from := l.listen(t)
	n := l.less(inARow)
	wait := l.callLater(script.Request{Op: script.Dial, Port: port, Count: n, Steps: ask})
	for range n {
		c := accept(t, from)
		if _, err := io.Copy(c, c); err != nil {
			t.Errorf("host: %v", err)
		}
		c.Close()
	}
	a := wait()
	if a.err != nil {
		t.Fatal(a.err)
	}
	mustEcho(t, a.Reports)
}

// each runs f on all connections at the same time.
func each(conns []*net.UnixConn, f func(*net.UnixConn)) {
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() { f(c) })
	}
	wg.Wait()
}

// mustEcho wants each connection to have had the same bytes both ways.
func mustEcho(t *testing.T, infos []script.ConnInfo) {
	t.Helper()
	for i, r := range infos {
		if r.Err() != nil || r.Sent != callKB || r.ReceivedSum != r.SentSum {
			t.Fatalf("guest, connection %d: %v, %d bytes sent, %d received", i, r.Err(), r.Sent, r.Received)
		}
	}
}
