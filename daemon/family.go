package daemon

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/vhost-user-vsock/vhost-user-vsock/stats"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
)

// family is one metric that every VM has: its series are the values that read
// puts, or the histograms that observed puts, each with one value for every label. Labels are closed sets, and no
// guest can make a new series.
type family struct {
	name   string
	help   string
	kind   prometheus.ValueType
	labels []string
	read   func(s *vmStats, put put)

	observed func(s *vmStats, put putHistogram)
}

// put exports one series of a family.
type put func(value float64, labels ...string)

// putHistogram exports one histogram of a family.
type putHistogram func(h *stats.Histogram, labels ...string)

// counter is a family of one series.
func counter(name, help string, of func(s *vmStats) *stats.Counter) family {
	return counters(name, help, func(s *vmStats, put put) { put(float64(of(s).Load())) })
}

// counters is a family of one series for each combination of labels.
func counters(name, help string, read func(s *vmStats, put put), labels ...string) family {
	return family{name: name, help: help, kind: prometheus.CounterValue, labels: labels, read: read}
}

// gauge is a family of one series.
func gauge(name, help string, of func(s *vmStats) *stats.Gauge) family {
	return gauges(name, help, func(s *vmStats, put put) { put(float64(of(s).Load())) })
}

// gauges is a family of one series for each combination of labels.
func gauges(name, help string, read func(s *vmStats, put put), labels ...string) family {
	return family{name: name, help: help, kind: prometheus.GaugeValue, labels: labels, read: read}
}

// histograms is a family of one histogram for each combination of labels.
func histograms(name, help string, observed func(s *vmStats, put putHistogram), labels ...string) family {
	return family{name: name, help: help, labels: labels, observed: observed}
}

// putAll exports one counter for each label value.
func putAll(put put, values []stats.Counter, labels []string) {
	for i := range values {
		put(float64(values[i].Load()), labels[i])
	}
}

// eachQueue visits the rings that the device has.
func eachQueue(s *vmStats, visit func(q *vhostuser.QueueStats, queue string)) {
	for i, queue := range queueNames {
		visit(&s.vhostuser.Queues[i], queue)
	}
}
