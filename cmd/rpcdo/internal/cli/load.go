package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/nats-io/nats.go/micro"

	"rpc.do/server"
)

// load is what one method of one version of a service had to do, over all
// instances.
type load struct {
	Service   string  `json:"service"`
	Version   string  `json:"version"`
	Method    string  `json:"method"` // as rpcdo call takes it
	Instances int     `json:"instances"`
	Calls     int     `json:"calls"`
	Errors    int     `json:"errors"`
	MeanUs    float64 `json:"mean_us"`
	LastError string  `json:"last_error,omitempty"`

	// Of the services that tell: calls that run and calls that were shed, and
	// the percentiles of the slowest instance.
	InFlight *int64  `json:"in_flight,omitempty"`
	Shed     *uint64 `json:"shed,omitempty"`
	P50us    *int64  `json:"p50_us,omitempty"`
	P90us    *int64  `json:"p90_us,omitempty"`
	P99us    *int64  `json:"p99_us,omitempty"`

	total time.Duration
}

// mergeStats adds up the instances of each version.
func mergeStats(stats []micro.Stats) []*load {
	byMethod := map[[3]string]*load{}
	list := []*load{}
	for _, s := range stats {
		for _, ep := range s.Endpoints {
			if ep == nil {
				continue
			}
			key := [3]string{s.Name, s.Version, ep.Subject}
			l := byMethod[key]
			if l == nil {
				l = &load{Service: s.Name, Version: s.Version, Method: methodName(ep.Subject)}
				byMethod[key] = l
				list = append(list, l)
			}
			l.add(ep)
		}
	}
	for _, l := range list {
		if ran := l.ran(); ran > 0 {
			l.MeanUs = float64(l.total.Nanoseconds()) / float64(ran) / 1e3
		}
	}
	slices.SortFunc(list, func(a, b *load) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Method, b.Method))
	})
	return list
}

// ran returns how many calls were not shed: those that took time.
func (l *load) ran() int {
	if l.Shed == nil {
		return l.Calls
	}
	return l.Calls - int(min(*l.Shed, uint64(max(l.Calls, 0))))
}

func (l *load) add(ep *micro.EndpointStats) {
	l.Instances++
	l.Calls += ep.NumRequests
	l.Errors += ep.NumErrors
	l.total += ep.ProcessingTime
	l.LastError = cmp.Or(l.LastError, ep.LastError)
	var told server.EndpointLoad
	if len(ep.Data) == 0 || json.Unmarshal(ep.Data, &told) != nil {
		return
	}
	most := func(to **int64, v int64) {
		if *to == nil || **to < v {
			*to = &v
		}
	}
	if l.InFlight == nil {
		l.InFlight, l.Shed = new(int64), new(uint64)
	}
	*l.InFlight += told.InFlight
	*l.Shed += told.Shed
	most(&l.P50us, told.P50us)
	most(&l.P90us, told.P90us)
	most(&l.P99us, told.P99us)
}

// printLoads writes a table whose columns are separated by tabs.
func printLoads(w io.Writer, loads []*load) {
	fmt.Fprintln(w, "METHOD\tVERSION\tINSTANCES\tCALLS\tERRORS\tSHED\tRUNNING\tMEAN\tP50\tP99\tLAST ERROR")
	for _, l := range loads {
		mean := "-"
		if l.ran() > 0 {
			mean = micros(l.MeanUs)
		}
		running, shed := "-", "-"
		if l.InFlight != nil {
			running, shed = fmt.Sprint(*l.InFlight), fmt.Sprint(*l.Shed)
		}
		percentile := func(us *int64) string {
			if us == nil || l.ran() == 0 {
				return "-"
			}
			return micros(float64(*us))
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", plain(l.Method), plain(l.Version), l.Instances,
			l.Calls, l.Errors, shed, running, mean, percentile(l.P50us), percentile(l.P99us), plain(l.LastError))
	}
}
