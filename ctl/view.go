package ctl

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/vhost-user-vsock/vhost-user-vsock/control"
)

// busiest is how many connections a view shows at most.
const busiest = 100

// view returns what is to be seen: all VMs, and the busiest connections below. rates
// are nil in the first picture.
func (p *picture) view(rates map[key]counts) []string {
	connections := int64(0)
	for _, vm := range p.vms {
		connections += vm.Connections
	}
	title := fmt.Sprintf("%s  %d VMs  %d connections", p.at.Format("15:04:05"), len(p.vms), connections)
	lines := []string{title}
	if len(p.unanswered) > 0 {
		lines = append(lines, unanswered(p.unanswered)) // where no terminal cuts it off
	}
	return slices.Concat(lines, []string{""}, p.viewVMs(rates), []string{""}, p.viewConnections(rates))
}

// viewVMs has what flows each second in sizes and packets, and in how much of that
// second something waited.
func (p *picture) viewVMs(rates map[key]counts) []string {
	t := newTable("NAME", "STATE", "CONNS", "BUFFER", right(sizeWidth, "TX/s"), right(sizeWidth, "RX/s"),
		right(8, "TX PKT/s"), right(8, "RX PKT/s"), "CREDIT%", "BUFFERS%", "HOST%")
	for _, vm := range p.vms {
		r, known := rates[key{vm: vm.Name}]
		rate := func(width int, text string) string {
			if !known {
				text = "-"
			}
			return right(width, text)
		}
		share := func(width int, ofSecond float64) string {
			if vm.StalledSeconds == nil {
				return right(width, "-")
			}
			return rate(width, whole(ofSecond*100))
		}
		t.row(vm.Name, words(string(vm.State)), right(5, whole(float64(vm.Connections))), rightSize(vm.BufferedBytes),
			rate(sizeWidth, size(r.txBytes)), rate(sizeWidth, size(r.rxBytes)), rate(8, whole(r.txPackets)), rate(8, whole(r.rxPackets)),
			share(7, r.stalled.Credit), share(8, r.stalled.RxBuffers), share(5, r.stalled.HostSocket))
	}
	return t.lines()
}

// viewConnections has the busiest first.
func (p *picture) viewConnections(rates map[key]counts) []string {
	flow := func(c *control.Connection) float64 {
		r := rates[keyOf(c)]
		return r.txBytes + r.rxBytes
	}
	sorted := slices.Clone(p.connections)
	slices.SortStableFunc(sorted, func(a, b control.Connection) int {
		return cmp.Or(cmp.Compare(flow(&b), flow(&a)), cmp.Compare(b.BufferedBytes, a.BufferedBytes))
	})
	t := newTable("VM", "TYPE", portsTitle, right(sizeWidth, "TX/s"), right(sizeWidth, "RX/s"), "BUFFER", "WAITS FOR")
	for _, c := range sorted[:min(busiest, len(sorted))] {
		tx, rx := "-", "-"
		if r, known := rates[keyOf(&c)]; known {
			tx, rx = size(r.txBytes), size(r.rxBytes)
		}
		t.row(c.VM, c.Type, ports(&c), right(sizeWidth, tx), right(sizeWidth, rx), rightSize(c.BufferedBytes), waits(c.WaitsFor))
	}
	return t.lines()
}

// whole writes a number without a fraction.
func whole(v float64) string { return strconv.FormatFloat(v, 'f', 0, 64) }
