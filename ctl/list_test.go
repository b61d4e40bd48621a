package ctl

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/vhost-user-vsock/vhost-user-vsock/control"
)

// aTerminal is the width that tables fit with names and paths as they are given here.
const aTerminal = 100

var someVMs = []control.VM{
	{
		Name: "web", State: control.Running, Origin: control.FromConfig, GuestCID: 3,
		Socket: "/run/vm/web.sock", UDSPath: "/run/vm/web.vsock",
		Connections: 12, MaxConnections: 4096, BufferedBytes: 256 << 10, MaxBuffered: 256 << 20,
		TxBytes: 1_234_567_890, RxBytes: 1023, TxPackets: 20_000, RxPackets: 10,
		UptimeSeconds: 93784, StalledSeconds: &control.StallSeconds{Credit: 1.5},
	},
	{
		Name: "db", State: control.Waiting, Origin: control.FromControl, GuestCID: 4,
		UDSPath: "/run/vm/db.vsock", MaxConnections: 4096, UptimeSeconds: 4.04, WaitingOptions: []string{"socket", "packed"},
	},
	{
		Name: "bad", State: control.Failed, Origin: control.FromConfig, GuestCID: 5,
		UDSPath: "/run/vm/bad.vsock", Error: "listen\x1b[2J: \u202eport\n\u009b31m \x7f \xff\ttaken",
	},
}

var someConnections = []control.Connection{
	{
		VM: "web", Type: "stream", GuestPort: 1023456789, HostPort: 1234, InitiatedBy: "guest", State: "established",
		WaitsFor: control.WaitHostSocket, AgeSeconds: 754, TxBytes: 10 << 20, RxBytes: 99, CreditBytes: 262144, BufferedBytes: 65536,
	},
	{
		VM: "web", Type: "seqpacket", GuestPort: 22, HostPort: 51234, InitiatedBy: "host", State: "half_closed",
		AgeSeconds: 7384, TxBytes: 5, RxBytes: 1 << 40, CreditBytes: 0,
	},
	{VM: "db", Type: "stream", GuestPort: 22, InitiatedBy: "host", State: "connecting", WaitsFor: control.WaitListener, AgeSeconds: 59.9},
	{VM: "db", Type: "stream", InitiatedBy: "host", State: "connecting", WaitsFor: "new_\x1b[m", AgeSeconds: 0.04},
}

const vmsTable = `
NAME  STATE    CID  CONNECTIONS      TX      RX  BUFFER    UP  ORIGIN   UDS-PATH
web   running  3        12/4096  1.1GiB  1.0KiB  256KiB   26h  config   /run/vm/web.vsock
db    waiting  4         0/4096      0B      0B      0B  4.0s  control  /run/vm/db.vsock
bad   failed   5            0/0      0B      0B      0B  0.0s  config   /run/vm/bad.vsock

db: waits for its frontend to leave: socket, packed
bad: listen\x1b[2J: \u202eport\n\u009b31m \x7f �\ttaken
`

const connectionsTable = `
VM   TYPE            GUEST    HOST   STATE         AGE      TX      RX  CREDIT  BUFFER  WAITS FOR
web  stream     1023456789 -> 1234   established   12m   10MiB     99B  256KiB   64KiB  host to read
web  seqpacket          22 <- 51234  half closed    2h      5B  1.0TiB      0B      0B  -
db   stream             22 <- ?      connecting    59s      0B      0B      0B      0B  listener
db   stream              ? <- ?      connecting   0.0s      0B      0B      0B      0B  new \x1b[m
`

// checkText compares what was printed; want begins with a line of its own.
func checkText(t *testing.T, got, want string) {
	t.Helper()
	if got = "\n" + got; got != want {
		t.Errorf("got:%s\nwant:%s", got, want)
	}
	for line := range strings.Lines(got) {
		if columns := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); columns > aTerminal {
			t.Errorf("%d columns: %s", columns, line)
		}
	}
}

func TestTables(t *testing.T) {
	d := startTestDaemon(t, &testDaemon{vms: someVMs, conns: someConnections})
	for _, tt := range []struct{ command, want string }{
		{"vms", vmsTable}, {"connections", connectionsTable},
	} {
		code, stdout, stderr := d.ctl(tt.command)
		if code != exitOK || stderr != "" {
			t.Errorf("%s: exit code %d, stderr %q", tt.command, code, stderr)
		}
		checkText(t, stdout, tt.want)
	}
}

// Below the connections that are known stands whose are not.
func TestConnectionsOfVMsThatDoNotAnswer(t *testing.T) {
	d := startTestDaemon(t, &testDaemon{conns: someConnections, silent: []string{"bad", "worse\x1b[2J"}})
	code, stdout, stderr := d.ctl("connections")
	if code != exitOK || stderr != "" {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
	checkText(t, stdout, connectionsTable+"\nevent loops that do not answer: bad, worse\\x1b[2J\n")
}
