package server

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"rpc.do"
	"rpc.do/bus"
)

// Keys of the metadata that INFO shows of each endpoint.
const (
	// MetadataParams and MetadataResult hold the JSON Schemas (draft 2020-12)
	// of the method's params and result; {} allows anything.
	MetadataParams = "rpc.params.schema"
	MetadataResult = "rpc.result.schema"
	// MetadataIdempotent is "true" or "false".
	MetadataIdempotent = "rpc.idempotent"
	// MetadataDescription and MetadataTimeout, the method's own timeout in
	// milliseconds, are there when the method's descriptor has them.
	MetadataDescription = "rpc.description"
	MetadataTimeout     = "rpc.timeout.ms"
)

// EndpointLoad is the "data" that STATS shows of each endpoint, beside the
// counts of ADR-32.
type EndpointLoad struct {
	// InFlight is how many calls of the method run now.
	InFlight int64 `json:"in_flight"`
	// P50us, P90us and P99us are percentiles of the time from a call's arrival
	// to its answer, in microseconds; at most an eighth too high, 0 before the
	// first call.
	P50us int64 `json:"p50_us"`
	P90us int64 `json:"p90_us"`
	P99us int64 `json:"p99_us"`
	// Running and Waiting count the calls under the bound that the method is
	// under, and MaxRunning and MaxWaiting are that bound. The methods without
	// a Concurrency of their own share one, that of the instance.
	Running    int `json:"running"`
	Waiting    int `json:"waiting"`
	MaxRunning int `json:"max_running"`
	MaxWaiting int `json:"max_waiting"`
	// Shed counts the calls that were refused with resource_exhausted before
	// they ran, because of that bound; they are among the requests and errors,
	// not among the percentiles.
	Shed uint64 `json:"shed"`
}

// discovery answers for one instance on $SRV as ADR-32 has it. What does not
// change is written once.
type discovery struct {
	svc       *Service
	identity  micro.ServiceIdentity
	started   time.Time
	endpoints []*endpoint // by name
	names     []string    // of the endpoints, as ADR-32 allows them
	ping      []byte
	info      []byte
	bareInfo  []byte // without schemas, for a bus whose messages are small
}

// subscribeDiscovery listens on the nine subjects of ADR-32: three verbs, each
// for all services, for those of this name and for this instance.
func (s *Service) subscribeDiscovery(listen func(subject string, handle nats.MsgHandler) error) error {
	d, err := s.newDiscovery()
	if err != nil {
		return fmt.Errorf("discovery: %w", err)
	}
	verbs := []struct {
		verb   micro.Verb
		answer func() ([]byte, error)
	}{
		{micro.PingVerb, func() ([]byte, error) { return d.ping, nil }},
		{micro.InfoVerb, d.infoReply},
		{micro.StatsVerb, d.statsReply},
	}
	for _, v := range verbs {
		for _, address := range [][2]string{{"", ""}, {s.name, ""}, {s.name, s.id}} {
			subject, err := micro.ControlSubject(v.verb, address[0], address[1])
			if err != nil {
				return fmt.Errorf("discovery: %w", err)
			}
			if err := listen(subject, func(msg *nats.Msg) { d.reply(msg, v.answer) }); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Service) newDiscovery() (*discovery, error) {
	d := &discovery{
		svc: s,
		identity: micro.ServiceIdentity{
			Name: s.name, ID: s.id, Version: s.config.Version, Metadata: s.config.Metadata,
		},
	}
	if d.identity.Metadata == nil {
		d.identity.Metadata = map[string]string{}
	}
	s.lifecycle.RLock()
	d.started = s.started.UTC()
	methods := slices.Sorted(maps.Keys(s.endpoints))
	methods = slices.DeleteFunc(methods, bus.SystemMethod)
	for _, name := range methods {
		d.endpoints = append(d.endpoints, s.endpoints[name])
	}
	s.lifecycle.RUnlock()
	d.names = endpointNames(methods)

	var err error
	if d.ping, err = json.Marshal(micro.Ping{ServiceIdentity: d.identity, Type: micro.PingResponseType}); err != nil {
		return nil, err
	}
	info := micro.Info{
		ServiceIdentity: d.identity, Type: micro.InfoResponseType,
		Description: s.config.Description, Endpoints: []micro.EndpointInfo{},
	}
	for i, ep := range d.endpoints {
		info.Endpoints = append(info.Endpoints, micro.EndpointInfo{
			Name: d.names[i], Subject: bus.CallSubject(s.name, ep.name), QueueGroup: bus.CallQueue, Metadata: ep.metadata(),
		})
	}
	if d.info, err = json.Marshal(info); err != nil {
		return nil, err
	}
	for _, ep := range info.Endpoints {
		delete(ep.Metadata, MetadataParams)
		delete(ep.Metadata, MetadataResult)
	}
	d.bareInfo, err = json.Marshal(info)
	return d, err
}

// described is implemented by params whose schema does not follow from their
// Go type.
type described interface{ schemaText() string }

func (ep *endpoint) metadata() map[string]string {
	m := map[string]string{
		MetadataResult:     schemaText(schemaOf(ep.result)),
		MetadataIdempotent: strconv.FormatBool(ep.spec.Idempotent),
	}
	if params, _ := ep.newFrame(); params != nil {
		if d, ok := params.(described); ok {
			m[MetadataParams] = d.schemaText()
		}
	}
	if m[MetadataParams] == "" {
		m[MetadataParams] = schemaText(schemaOf(ep.params))
	}
	if ep.spec.Description != "" {
		m[MetadataDescription] = ep.spec.Description
	}
	if ep.spec.Timeout > 0 {
		m[MetadataTimeout] = strconv.FormatInt(max(ep.spec.Timeout.Milliseconds(), 1), 10)
	}
	return m
}

// endpointNames makes the names of methods, which are sorted, fit for ADR-32,
// where a name has no dots: "v2.place" becomes "v2_place". A method that has
// that name without dots keeps it, and the other gets one more "_".
func endpointNames(methods []string) []string {
	taken := map[string]bool{}
	for _, m := range methods {
		if !strings.Contains(m, ".") {
			taken[m] = true
		}
	}
	names := make([]string, len(methods))
	for i, m := range methods {
		names[i] = m
		if !strings.Contains(m, ".") {
			continue
		}
		name := strings.ReplaceAll(m, ".", "_")
		for taken[name] {
			name += "_"
		}
		taken[name] = true
		names[i] = name
	}
	return names
}

func (d *discovery) infoReply() ([]byte, error) {
	if int64(len(d.info)) > d.svc.bus.MaxPayload() {
		return d.bareInfo, nil
	}
	return d.info, nil
}

func (d *discovery) statsReply() ([]byte, error) {
	s := micro.Stats{
		ServiceIdentity: d.identity, Type: micro.StatsResponseType,
		Started: d.started, Endpoints: []*micro.EndpointStats{},
	}
	for i, ep := range d.endpoints {
		load, err := json.Marshal(ep.load())
		if err != nil {
			return nil, err
		}
		s.Endpoints = append(s.Endpoints, &micro.EndpointStats{
			Name: d.names[i], Subject: bus.CallSubject(d.svc.name, ep.name), QueueGroup: bus.CallQueue,
			NumRequests: int(ep.stats.requests.Load()), NumErrors: int(ep.stats.errors.Load()), LastError: ep.stats.last(),
			ProcessingTime: time.Duration(ep.stats.total.Load()), AverageProcessingTime: ep.stats.mean(),
			Data: load,
		})
	}
	return json.Marshal(s)
}

func (ep *endpoint) load() EndpointLoad {
	p := ep.stats.latency.percentiles(0.5, 0.9, 0.99)
	running, waiting := ep.gate.load()
	return EndpointLoad{
		InFlight: ep.stats.inFlight.Load(),
		P50us:    p[0].Microseconds(), P90us: p[1].Microseconds(), P99us: p[2].Microseconds(),
		Running: running, Waiting: waiting,
		MaxRunning: ep.gate.maxRunning, MaxWaiting: ep.gate.maxWaiting,
		Shed: ep.stats.shed.Load(),
	}
}

// reply answers one request, if it may be answered.
func (d *discovery) reply(msg *nats.Msg, answer func() ([]byte, error)) {
	s := d.svc
	if msg.Reply == "" {
		return
	}
	if !bus.AllowedReply(msg.Reply, s.config.ReplyPrefixes) {
		s.log.Warn().Str("subject", msg.Subject).Str("reply", bus.Bounded(msg.Reply)).
			Msg("discovery request refused: its reply subject is outside the allowed inbox prefixes")
		return
	}
	out := &nats.Msg{Subject: msg.Reply}
	data, err := answer()
	limit := s.bus.MaxPayload()
	switch size := int64(len(data)); {
	case err != nil:
		s.log.Error().Err(err).Str("subject", msg.Subject).Msg("discovery request can't be answered")
		out = bus.EncodeError(msg.Reply, rpc.Internal.Errorf("%s: internal error", msg.Subject), limit)
	case size > limit:
		out = bus.EncodeError(msg.Reply, rpc.ResourceExhausted.Errorf(
			"%s: the answer has %d bytes, the bus takes at most %d (max_payload)", msg.Subject, size, limit), limit)
	default:
		out.Data = data
	}
	if err := s.bus.Conn().PublishMsg(out); err != nil {
		s.log.Error().Err(err).Str("subject", msg.Subject).Msg("discovery answer can't be sent")
	}
}
