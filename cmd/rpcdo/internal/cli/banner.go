package cli

import (
	"fmt"
	"io"
	"strings"

	"rpc.do/bus"
	"rpc.do/cmd/rpcdo/internal/demo"
	"rpc.do/server"
)

// ready is the banner for programs.
type ready struct {
	Ready    string   `json:"ready"` // the bus's URL
	Store    string   `json:"store,omitempty"`
	Sync     string   `json:"sync,omitempty"`
	Services []string `json:"services,omitempty"`
	Classes  []string `json:"classes,omitempty"` // of objects
}

// readyLine is what bus and serve print when they are ready.
func (a *app) readyLine(r ready) error {
	if a.json {
		return a.printJSON(r)
	}
	_, err := fmt.Fprintln(a.env.Out, strings.Join(append([]string{"ready", r.Ready}, r.Services...), " "))
	return err
}

// printBanner says what rpcdo dev runs where, and what to try.
func (a *app) printBanner(url, store string, services []*server.Service, withDemo bool) error {
	if a.json {
		r := ready{Ready: url, Store: store, Sync: "interval"}
		for _, svc := range services {
			r.Services = append(r.Services, svc.Name())
		}
		if withDemo {
			r.Classes = []string{demo.Class}
		}
		return a.printJSON(r)
	}
	_, err := io.WriteString(a.env.Out, a.banner(url, store, withDemo))
	return err
}

// banner is what printBanner prints for people.
func (a *app) banner(url, store string, withDemo bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "rpcdo dev: ready %s\n\n", url)
	row := func(what, where string) { fmt.Fprintf(&b, "  %-9s %s\n", what, where) }
	row("bus", url+"  (this machine only, JetStream on)")
	row("store", store)
	row("", "sync: interval: a crash loses nothing, a power failure up to two minutes")
	row("services", "pipeline "+demo.Version+" event.send, schedule.create, …: events and schedules by calls")
	if withDemo {
		row("", "greeter "+demo.Version+"  hello")
		row("", "math "+demo.Version+"     add, divide")
		row("objects", demo.Class+"        increment, reset, value")
		row("events", demo.Registered.Name()+", handled by greeter ("+demo.Handler+"), which sends "+demo.Greeted.Name())
		row("", a.env.Program+" events send "+demo.Registered.Name()+` '{"name":"Ada"}'`+a.onBus(url))
		row("schedules", "ticks for "+demo.TickHandler+" are handled by greeter, which sends "+demo.Greeted.Name())
		row("", a.env.Program+" schedules create hello '@every 10s' --handler "+demo.TickHandler+` --payload '{"name":"Ada"}'`+a.onBus(url))
	}
	b.WriteString("\nTry in another terminal:\n")
	for _, line := range a.tryLines(url, withDemo) {
		fmt.Fprintf(&b, "  %s\n", line)
	}
	b.WriteString("\nCtrl-C stops.\n")
	return b.String()
}

// onBus is what a command needs to find the bus.
func (a *app) onBus(url string) string {
	if env := a.env.Getenv("NATS_URL"); env == "" && url != bus.DefaultURL || env != "" && env != url {
		return " --server " + url
	}
	return ""
}

// tryLines returns commands that work when pasted into a shell.
func (a *app) tryLines(url string, withDemo bool) []string {
	where := a.onBus(url)
	lines := []string{
		`call math.add '{"a":1,"b":2}'` + where,
		`call greeter.hello '{"name":"Ada"}'` + where,
		`call counter.increment --object alice '{"by":1}'` + where,
		`services ls` + where,
	}
	if !withDemo {
		lines = []string{
			`schedules create beat '@every 10s' --event Heart.beat` + where,
			`services ls` + where,
			`serve` + where,
			`bench call --duration 2s --server ` + url,
		}
	}
	for i := range lines {
		lines[i] = a.env.Program + " " + lines[i]
	}
	return lines
}
