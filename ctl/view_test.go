package ctl

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/control"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

// twoPictures are of the same VMs and connections, two seconds apart: what moved, what
// stands still, what is new, and what is another one of the same name.
func twoPictures() (before, after *picture) {
	stalls := func(credit, buffers, socket float64) *control.StallSeconds {
		return &control.StallSeconds{Credit: credit, RxBuffers: buffers, HostSocket: socket}
	}
	const mib = 1 << 20
	before = &picture{
		at: noon,
		vms: []control.VM{
			{Name: "web", State: control.Running, UptimeSeconds: 100, Connections: 2, TxBytes: 7 * mib, RxBytes: 900, TxPackets: 1000, RxPackets: 50, StalledSeconds: stalls(10, 20, 30)},
			{Name: "db", State: control.Running, UptimeSeconds: 100, TxBytes: 999, StalledSeconds: stalls(1, 1, 1)},
			{Name: "old", State: control.Running, UptimeSeconds: 100, TxBytes: 1},
		},
		connections: []control.Connection{
			{VM: "web", Type: "stream", GuestPort: 1000, HostPort: 1, InitiatedBy: "guest", AgeSeconds: 9, TxBytes: 7 * mib},
			{VM: "web", Type: "stream", GuestPort: 22, HostPort: 51234, InitiatedBy: "host", AgeSeconds: 9, RxBytes: 100},
		},
	}
	after = &picture{
		at: noon.Add(2 * time.Second),
		vms: []control.VM{
			{Name: "web", State: control.Running, UptimeSeconds: 102, Connections: 5, BufferedBytes: 65536, TxBytes: 27 * mib, RxBytes: 1300, TxPackets: 2001, RxPackets: 54, StalledSeconds: stalls(11, 20.01, 32)},
			{Name: "db", State: control.Waiting, UptimeSeconds: 0.5, TxBytes: 2000, StalledSeconds: stalls(0.5, 0, 0)},
			{Name: "new", State: control.Connected, UptimeSeconds: 1, RxBytes: 4096},
		},
		connections: []control.Connection{
			{VM: "web", Type: "stream", GuestPort: 5, HostPort: 5, InitiatedBy: "guest", AgeSeconds: 30, BufferedBytes: 0},
			{VM: "web", Type: "stream", GuestPort: 6, HostPort: 6, InitiatedBy: "guest", AgeSeconds: 1, TxBytes: 60 << 10},
			{VM: "web", Type: "stream", GuestPort: 1000, HostPort: 1, InitiatedBy: "guest", AgeSeconds: 1.5, TxBytes: 20, WaitsFor: control.WaitHostSocket, BufferedBytes: 65536},
			{VM: "web", Type: "stream", GuestPort: 22, HostPort: 51234, InitiatedBy: "host", AgeSeconds: 11, RxBytes: 20*mib + 100, WaitsFor: control.WaitGuestCredit},
			{VM: "web", Type: "stream", GuestPort: 22, HostPort: 51234, InitiatedBy: "host", State: "lingering", AgeSeconds: 50, RxBytes: 1 << 40},
		},
	}
	return before, after
}

const theView = `
12:00:02  3 VMs  5 connections

NAME  STATE      CONNS  BUFFER    TX/s    RX/s  TX PKT/s  RX PKT/s  CREDIT%  BUFFERS%  HOST%
web   running        5   64KiB   10MiB    200B       500         2       50         1    100
db    waiting        0      0B  1.0KiB      0B         0         0       25         0      0
new   connected      0      0B      0B  2.0KiB         0         0        -         -      -

VM   TYPE         GUEST    HOST     TX/s    RX/s  BUFFER  WAITS FOR
web  stream          22 <- 51234      0B   10MiB      0B  guest to read
web  stream           6 -> 6       30KiB      0B      0B  -
web  stream        1000 -> 1         10B      0B   64KiB  host to read
web  stream           5 -> 5          0B      0B      0B  -
web  stream          22 <- 51234       -       -      0B  -
`

const theFirstView = `
12:00:00  3 VMs  2 connections

NAME  STATE    CONNS  BUFFER    TX/s    RX/s  TX PKT/s  RX PKT/s  CREDIT%  BUFFERS%  HOST%
web   running      2      0B       -       -         -         -        -         -      -
db    running      0      0B       -       -         -         -        -         -      -
old   running      0      0B       -       -         -         -        -         -      -

VM   TYPE         GUEST    HOST     TX/s    RX/s  BUFFER  WAITS FOR
web  stream        1000 -> 1           -       -      0B  -
web  stream          22 <- 51234       -       -      0B  -
`

func TestView(t *testing.T) {
	before, after := twoPictures()
	checkText(t, strings.Join(after.view(after.ratesSince(before)), "\n")+"\n", theView)
}

// The first picture has no rates.
func TestFirstView(t *testing.T) {
	before, _ := twoPictures()
	checkText(t, strings.Join(before.view(before.ratesSince(nil)), "\n")+"\n", theFirstView)
}

// The second of them shows which VM does not answer, and the connections of the others.
// When it answers again, nobody knows since when its bytes have flown.
func TestViewOfVMsThatDoNotAnswer(t *testing.T) {
	first, second := twoPictures()
	third := *second
	third.at = second.at.Add(2 * time.Second)
	second.connections, second.unanswered = []control.Connection{{VM: "new", Type: "stream", GuestPort: 7, HostPort: 7}}, []string{"web", "d\x1b[2Jb"}
	third.connections = append(third.connections, control.Connection{VM: "new", Type: "stream", GuestPort: 7, HostPort: 7, AgeSeconds: 2, TxBytes: 2048})

	lines := second.view(second.ratesSince(first))
	if lines[1] != `event loops that do not answer: web, d\x1b[2Jb` || lines[2] != "" || !slices.ContainsFunc(lines, isWeb) {
		t.Errorf("it shows:\n%s", strings.Join(lines, "\n"))
	}
	expectRate := func(vm, ports, rate string) {
		t.Helper()
		lines := third.viewConnections(third.ratesSince(second))
		if !slices.ContainsFunc(lines, func(line string) bool {
			f := strings.Fields(line)
			return f[0] == vm && strings.Join(f[2:5], " ") == ports && f[5] == rate
		}) {
			t.Errorf("no %s of %s has %s:\n%s", ports, vm, rate, strings.Join(lines, "\n"))
		}
	}
	expectRate("web", "6 -> 6", "-")
	expectRate("new", "7 -> 7", "1.0KiB")
}
