package daemon

import (
	"runtime"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/vhost-user-vsock/vhost-user-vsock/stats"
)

const namespace = "vhost_user_vsock"

// newMetrics returns everything that /metrics shows of the VMs that list returns
// and of the program.
func newMetrics(list func() []*vm, p *programStats, linesLost func() uint64, version string) *prometheus.Registry {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Namespace:   namespace,
		Name:        "build_info",
		Help:        "Always 1; the labels tell the version of the program and of Go.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	})
	build.Set(1)
	lost := prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: namespace,
		Name:      "log_lines_lost_total",
		Help:      "Log lines that never reached stderr.",
	}, func() float64 { return float64(linesLost()) })

	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: namespace,
		Name:      "waiting_options",
		Help:      "Changed options of the program that apply when it starts again.",
	}, func() float64 { return float64(p.waiting.Load()) })

	registry := prometheus.NewRegistry()
	registry.MustRegister(
		build, lost, waiting, reloads("applied", &p.applied), reloads("refused", &p.refused), newVMCollector(list),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return registry
}

// reloads is one series of the counter of reloads.
func reloads(result string, of *stats.Counter) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace:   namespace,
		Name:        "reloads_total",
		Help:        "Times the configuration was read again, by result.",
		ConstLabels: prometheus.Labels{"result": result},
	}, func() float64 { return float64(of.Load()) })
}

// vmCollector reads the counters of the VMs when it is asked.
type vmCollector struct {
	list  func() []*vm
	descs []*prometheus.Desc // of families, in order
}

func newVMCollector(list func() []*vm) *vmCollector {
	c := &vmCollector{list: list}
	for _, f := range families {
		labels := append([]string{"vm"}, f.labels...)
		c.descs = append(c.descs, prometheus.NewDesc(namespace+"_"+f.name, f.help, labels, nil))
	}
	return c
}

// Describe is part of prometheus.Collector.
func (c *vmCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect is part of prometheus.Collector. It is safe for concurrent use.
func (c *vmCollector) Collect(ch chan<- prometheus.Metric) {
	for _, v := range c.list() {
		for i, f := range families {
			f.collect(v, c.descs[i], ch)
		}
	}
}

// collect sends the series that a VM has of the family.
func (f *family) collect(v *vm, desc *prometheus.Desc, ch chan<- prometheus.Metric) {
	if f.observed != nil {
		f.observed(&v.stats, func(h *stats.Histogram, labels ...string) {
			count, sum, within := h.Load()
			ch <- prometheus.MustNewConstHistogram(desc, count, sum, within, append([]string{v.name}, labels...)...)
		})
		return
	}
	f.read(&v.stats, func(value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, f.kind, value, append([]string{v.name}, labels...)...)
	})
}
