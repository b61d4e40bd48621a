package cloudhypervisor

import (
	"bytes"
	"fmt"
	"net"
	"testing"
)

// bulk is how much the transfers move each way.
const bulk = 1 << 20

// conversations leave the guest as they found it, so one guest serves them all.
var conversations = []struct {
	name string
	test func(*testing.T, lab)
}{
	{"the host sends and ends first", hostSends},
	{"the guest sends and ends first", guestSends},
	{"both ways at once", bothWays},
	{"connections the guest makes", guestDials},
	{"many at once", manyAtOnce},
	{"refused by the host", refusedByHost},
	{"refused by the guest", refusedByGuest},
}

func TestBareMetalConversations(t *testing.T) {
	onEach(t, func(t *testing.T, l lab) {
		for _, c := range conversations {
			t.Run(c.name, func(t *testing.T) { c.test(t, l) })
		}
	})
}

func hostSends(t *testing.T, l lab) {
	c := l.dial(t, discard)
	if _, err := c.Write(pattern(bulk)); err != nil {
		t.Fatal(err)
	}
	c.CloseWrite()
	if got, want := string(rest(t, c)), fmt.Sprintf("%d\n", bulk); got != want {
		t.Errorf("the guest answers %q, want %q", got, want)
	}
}

// The guest ends its way and still takes what the host sends after that.
func guestSends(t *testing.T, l lab) {
	const after = 100_000
	c := l.dial(t, source)
	say(t, c, fmt.Sprintf("%d\n", bulk))
	if got := rest(t, c); !bytes.Equal(got, pattern(bulk)) {
		t.Errorf("%d bytes came, not the pattern's first %d", len(got), bulk)
	}
	if _, err := c.Write(pattern(after)); err != nil {
		t.Fatal(err)
	}
	c.Close()
	l.AwaitLine(t, fmt.Sprintf("source swallowed %d bytes", after), 1)
}

func bothWays(t *testing.T, l lab) { mustEcho(t, l.dial(t, echo), pattern(bulk)) }

func guestDials(t *testing.T, l lab) { mustEcho(t, l.dialled(t), pattern(bulk)) }

func manyAtOnce(t *testing.T, l lab) {
	var open []*net.UnixConn
	for range 10 {
		open = append(open, l.dial(t, echo), l.dialled(t))
	}
	for _, c := range open {
		mustPing(t, c)
	}
	for _, c := range open {
		mustEcho(t, c, pattern(1000))
	}
}

func refusedByHost(t *testing.T, l lab) {
	port := newPort()
	l.tell(t, "dial %d", port)
	l.AwaitLine(t, fmt.Sprintf("guest: port %d refused", port), 1)
}

func refusedByGuest(t *testing.T, l lab) {
	if c, err := l.Dial(nobody); err == nil {
		c.Close()
		t.Error("a port without a service accepts")
	}
}
