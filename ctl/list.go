package ctl

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/vhost-user-vsock/vhost-user-vsock/control"
)

// vmLines returns the table of VMs and, below it, what is to be said of some.
func vmLines(vms []control.VM) []string {
	t := newTable("NAME", "STATE", "CID", "CONNECTIONS", right(sizeWidth, "TX"), right(sizeWidth, "RX"), "BUFFER", right(ageWidth, "UP"), "ORIGIN", "UDS-PATH")
	var notes []string
	for _, vm := range vms {
		t.row(
			vm.Name, words(string(vm.State)), strconv.FormatUint(vm.GuestCID, 10),
			right(11, fmt.Sprintf("%d/%d", vm.Connections, vm.MaxConnections)),
			rightSize(vm.TxBytes), rightSize(vm.RxBytes), rightSize(vm.BufferedBytes), rightAge(vm.UptimeSeconds), string(vm.Origin), vm.UDSPath,
		)
		if vm.Error != "" {
			notes = append(notes, plain(vm.Name+": "+vm.Error))
		}
		if len(vm.WaitingOptions) > 0 {
			notes = append(notes, plain(vm.Name+": waits for its frontend to leave: "+strings.Join(vm.WaitingOptions, ", ")))
		}
	}
	lines := t.lines()
	if len(notes) > 0 {
		lines = append(append(lines, ""), notes...)
	}
	return lines
}

// connectionLines returns the table of connections and, below it, what it lacks.
func connectionLines(list control.ConnectionList) []string {
	t := newTable("VM", "TYPE", portsTitle, "STATE", right(ageWidth, "AGE"), right(sizeWidth, "TX"), right(sizeWidth, "RX"), "CREDIT", "BUFFER", "WAITS FOR")
	for _, c := range list.Connections {
		t.row(
			c.VM, c.Type, ports(&c), words(c.State), rightAge(c.AgeSeconds),
			rightSize(c.TxBytes), rightSize(c.RxBytes), rightSize(c.CreditBytes), rightSize(c.BufferedBytes), waits(c.WaitsFor),
		)
	}
	lines := t.lines()
	if len(list.Unanswered) > 0 {
		lines = append(lines, "", unanswered(list.Unanswered))
	}
	return lines
}

// unanswered says of which VMs nothing is known but what needs no answer of theirs.
func unanswered(vms []string) string {
	return plain("event loops that do not answer: " + strings.Join(vms, ", "))
}

// portsTitle is above ports, with the words where the numbers are.
const portsTitle = "     GUEST    HOST"

// ports returns both ports of a connection, and an arrow from who asked for it.
func ports(c *control.Connection) string {
	arrow := "->"
	if c.InitiatedBy == "host" {
		arrow = "<-"
	}
	return right(10, port(c.GuestPort)) + " " + arrow + " " + port(c.HostPort)
}

// port writes a port that need not be there yet.
func port(n uint32) string {
	if n == 0 {
		return "?"
	}
	return strconv.FormatUint(uint64(n), 10)
}

// waits says what a connection waits for.
func waits(reason control.Wait) string {
	switch reason {
	case control.WaitNothing:
		return "-"
	case control.WaitConnectLine:
		return "CONNECT line"
	case control.WaitDriver:
		return "driver"
	case control.WaitListener:
		return "listener"
	case control.WaitGuestAnswer:
		return "guest's answer"
	case control.WaitHostBacklog:
		return "host to accept"
	case control.WaitGuestCredit:
		return "guest to read"
	case control.WaitRxBuffers:
		return "rx buffers"
	case control.WaitHostSocket:
		return "host to read"
	}
	return words(string(reason)) // of a daemon that knows more
}
