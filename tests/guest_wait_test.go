package tests

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

// A host program connects before there is a guest, and is answered by the program
// that comes to listen there in the end.
func TestGuestIsWaitedFor(t *testing.T) {
	d := vm.StartDaemon(t, "--wait-for-guest", limit.String())
	d.AwaitReady(t)
	c, err := net.Dial("unix", d.UDS)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	port := newPort()
	fmt.Fprintf(c, "CONNECT %d\nthere\n", port)
	l := uml.on(t, d)
	l.call(t, script.Request{Op: script.Listen, Port: port, Steps: []script.Step{{Do: script.Echo}}})
	c.SetDeadline(time.Now().Add(limit))
	lines := bufio.NewReader(c)
	for _, want := range []string{"OK ", "there\n"} {
		if line, err := lines.ReadString('\n'); err != nil || !strings.HasPrefix(line, want) {
			t.Fatalf("read %q, error %v; want %q", line, err, want)
		}
	}
}
