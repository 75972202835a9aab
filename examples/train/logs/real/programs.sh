# Scripts of collect.py: each prints the log of one program, or leaves it in the file `log`. They run in
# an empty folder. This head stands in front of each of them.
tree() { # tree FOLDERS FILES: a tree of small text files
  for d in $(seq "$1"); do mkdir -p "src/part$d"; for f in $(seq "$2"); do
    printf 'int f%d_%d(int a, unsigned b) { int unused; if (a < b) return a; return f%d_%d(b, a); }\n' \
      "$d" "$f" "$d" "$f" > "src/part$d/unit$f.c"; done; done
}
pages() { mkdir -p www; for n in $(seq 0 39); do head -c $((n * 97 + 10)) /dev/zero > "www/page$n.html"; done; echo hi > www/index.html; }

## dpkg needs dpkg
cp /var/log/dpkg.log log

## apt needs apt-get
for p in gnome-core kde-standard texlive-full; do apt-get -s -f -o Debug::pkgDepCache::AutoInstall=yes \
  -o Debug::pkgDepCache::Marker=yes install $p; done 2>&1 | head -40000

## pip
"$PYTHON" -m venv v; v/bin/pip install -vvv --no-cache-dir flask django sqlalchemy celery 2>&1

## npm needs npm
npm init -y > /dev/null; for p in express webpack eslint; do npm install --cache ./cache --ignore-scripts --loglevel silly $p 2>&1; done; npm ls --all --loglevel silly 2>&1; npm install --cache ./cache --ignore-scripts --loglevel silly mocha rollup typescript jest 2>&1

## make needs make gcc
tree 12 12
{ echo 'all: lib.a'; echo 'O := $(patsubst %.c,%.o,$(wildcard src/*/*.c))'; echo 'lib.a: $(O)'; echo '	ar rc $@ $^'; } > Makefile
make -d 2>&1

## gcc needs gcc
tree 10 30
for f in src/*/*.c; do gcc -H -v -Wall -Wextra -include stdio.h -include sys/socket.h -c "$f" -o x.o 2>&1; done

## cmake needs cmake
printf 'cmake_minimum_required(VERSION 3.18)\nproject(a C)\nfind_package(Threads)\nfind_package(ZLIB)\ninclude(CheckIncludeFile)\nforeach(h stdio.h zip.h math.h)\ncheck_include_file(${h} H_${h})\nendforeach()\n' > CMakeLists.txt
cmake --trace-expand . 2>&1

## ninja needs ninja gcc
tree 20 40
{ echo 'rule cc'; echo '  command = gcc -O1 -c $in -o $out'; echo '  description = CC $out'
  for f in src/*/*.c; do echo "build ${f%.c}.o: cc $f"; done; } > build.ninja
ninja -j1 -v -d explain -d stats 2>&1; touch src/part3/*.c src/part7/*.c; ninja -j1 -v -d explain 2>&1
for n in $(seq 9); do touch src/part$n*/unit$n*.c src/part1$n/unit1*.c; ninja -j1 -v -d explain 2>&1; done

## pytest
"$PYTHON" -m pytest -p no:cacheprovider -p no:xdist -v --durations=50 --pyargs numpy.lib.tests.test_function_base numpy._core.tests.test_multiarray numpy.ma.tests.test_core 2>&1

## git needs git
export GIT_TRACE=1 GIT_TRACE_PERFORMANCE=1 GIT_TRACE_SETUP=1 GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
git init -q . 2>&1
for n in $(seq 90); do echo "$n" >> "file$((n % 7))"; git add . 2>&1; git commit -qm "change $n" 2>&1
  if [ $((n % 9)) = 0 ]; then git checkout -q -b "topic$n" 2>&1; git log --oneline -3 2>&1; git gc -q 2>&1; fi; done

## strace needs strace
strace -f -tt -T bash -c 'for d in /etc/*; do ls -l $d > /dev/null; done; python3 -c "import json, http.client, sqlite3"' 2>&1

## ltrace needs ltrace
ltrace -f -tt -e '*' ls -lR /etc /usr/share/doc/b* 2>&1 | head -60000

## valgrind needs valgrind
valgrind -v --trace-syscalls=yes --tool=memcheck bash -c 'for d in /etc/*; do test -d $d && ls -l $d > /dev/null; done' 2>&1

## java needs java
cat > Gc.java <<'J'
import java.util.*;
public class Gc { public static void main(String[] a) { Random r = new Random(1); List<byte[]> held = new ArrayList<>();
  for (int n = 0; n < 1200000; n++) { byte[] b = new byte[r.nextInt(6000)]; if (r.nextInt(40) == 0) held.add(b);
    if (held.size() > 9000) held.subList(0, r.nextInt(9000)).clear(); } } }
J
java -Xmx64m -Xlog:gc*=debug:stdout:time,uptime,level,tags Gc.java 2>&1

## classload needs java
printf 'public class A { public static void main(String[] a) throws Exception { java.net.http.HttpClient.newHttpClient(); new javax.swing.text.html.HTMLDocument(); java.util.stream.IntStream.range(0, 9).boxed().toList(); javax.crypto.Cipher.getInstance("AES"); } }' > A.java
java -Djava.awt.headless=true -Xlog:class+load=info,class+init=info A.java 2>&1

## javac needs javac
mkdir s; for n in $(seq 60); do printf 'import java.util.*; import java.net.*; public class C%d { Map<String, List<URI>> m = new TreeMap<>(); int f(int x) { return m.size() + x; } %s }\n' "$n" "${n:+Thread t; java.nio.file.Path p;}" > "s/C$n.java"; done
for n in $(seq 60); do javac -verbose -Xlint:all -cp s -d "o$n" "s/C$n.java" 2>&1; done

## postgres needs initdb postgres pgbench setpriv
mkdir d; chown postgres d; P="setpriv --reuid=postgres --regid=postgres --clear-groups"
$P initdb -D d > /dev/null 2>&1
$P postgres -D d -p 55432 -k "$PWD/d" -h '' -c log_statement=all -c log_duration=on -c log_connections=on -c log_disconnections=on -c log_checkpoints=on -c log_line_prefix='%m [%p] %u@%d ' > log 2>&1 & W=$!
sleep 4; U="-h $PWD/d -p 55432 -U postgres"
pgbench $U -i postgres > /dev/null 2>&1; pgbench $U -t 90 -c 4 postgres > /dev/null 2>&1; pgbench $U -S -C -t 60 postgres > /dev/null 2>&1
for n in $(seq 40); do psql $U -c "select * from t$n" postgres > /dev/null 2>&1; psql $U -c "select count(*) from pgbench_accounts where bid = $n; checkpoint" postgres > /dev/null 2>&1; done
kill $W; wait $W

## sqlite needs sqlite3
{ echo '.eqp full'; echo 'create table t(a integer primary key, b text, c real); create index i on t(b);'
  for n in $(seq 70); do echo "insert into t(b, c) values('name$((n % 13))', $n.5); select count(*) from t where b = 'name$((n % 5))'; update t set c = c + 1 where a = $n;"
  [ $((n % 10)) = 0 ] && echo "select b, sum(c) from t group by b order by 2 desc limit 3; delete from t where c > 4$n;"; done; } | sqlite3 2>&1

## redis needs redis-server
redis-server --port 56379 --bind 127.0.0.1 --loglevel debug --save "1 20" --dir "$PWD" --logfile "$PWD/log" & W=$!
"$PYTHON" "$LOAD" redis 56379 1900; kill $W; wait $W

## nginx needs nginx
pages; mkdir tmp
echo "daemon off; pid nginx.pid; error_log error.log info; events {} http { access_log $PWD/log; client_body_temp_path tmp; proxy_temp_path tmp; fastcgi_temp_path tmp; uwsgi_temp_path tmp; scgi_temp_path tmp; server { listen 127.0.0.1:58080; root $PWD/www; location /api { return 401; } location /login { return 302 /; } } }" > n.conf
chmod -R a+rX www; nginx -p "$PWD" -c "$PWD/n.conf" & W=$!
"$PYTHON" "$LOAD" http 58080 5000; kill $W; wait $W

## apache needs apache2
pages; chmod -R a+rX www; M=/usr/lib/apache2/modules
{ echo "ServerRoot $PWD"; echo 'Listen 127.0.0.1:58081'; echo 'ServerName localhost'; for m in mpm_event authz_core mime dir; do [ -e $M/mod_$m.so ] && echo "LoadModule ${m}_module $M/mod_$m.so"; done
  echo "PidFile $PWD/pid"; echo "DocumentRoot $PWD/www"; echo "TypesConfig /etc/mime.types"; echo "ErrorLog $PWD/log"; echo 'LogLevel trace4'; echo 'User www-data'; echo 'Group www-data'; } > a.conf
apache2 -f "$PWD/a.conf" -DFOREGROUND & W=$!
"$PYTHON" "$LOAD" http 58081 1500; kill $W; wait $W

## lighttpd needs lighttpd
pages
printf 'server.document-root = "%s/www"\nserver.port = 58082\nserver.bind = "127.0.0.1"\nserver.errorlog = "%s/log"\ndebug.log-request-handling = "enable"\ndebug.log-request-header = "enable"\ndebug.log-file-not-found = "enable"\nindex-file.names = ("index.html")\n' "$PWD" "$PWD" > l.conf
lighttpd -D -f l.conf & W=$!
"$PYTHON" "$LOAD" http 58082 1200; kill $W; wait $W

## haproxy needs haproxy
pages; (cd www && exec "$PYTHON" -m http.server --bind 127.0.0.1 58084 > /dev/null 2>&1) &
printf 'global\n log stdout format raw local0 debug\ndefaults\n mode http\n option httplog\n log global\n timeout connect 1s\n timeout client 5s\n timeout server 5s\nfrontend front\n bind 127.0.0.1:58083\n use_backend static if { path_beg /img /static }\n default_backend app\nbackend app\n option httpchk GET /\n server one 127.0.0.1:58084 check inter 500\n server two 127.0.0.1:58085 check inter 700\nbackend static\n server three 127.0.0.1:58084\n' > h.conf
haproxy -db -f h.conf > log 2>&1 & W=$!
"$PYTHON" "$LOAD" http 58083 4000; kill $W; wait $W

## memcached needs memcached
memcached -u nobody -l 127.0.0.1 -p 51211 -U 0 -vv > log 2>&1 & W=$!
"$PYTHON" "$LOAD" memcached 51211 900; kill $W; wait $W

## mosquitto needs mosquitto mosquitto_pub mosquitto_sub
printf 'listener 51883 127.0.0.1\nallow_anonymous true\nlog_timestamp_format %%Y-%%m-%%dT%%H:%%M:%%S\n' > m.conf
mosquitto -v -c m.conf > log 2>&1 & W=$!
sleep 1; mosquitto_sub -p 51883 -i watcher -t 'plant/#' -q 1 > /dev/null & S=$!
for n in $(seq 330); do mosquitto_pub -p 51883 -i "dev$((n % 17))" -q $((n % 3)) -t "plant/line$((n % 5))/temp" -m "$n"; done; kill $S; kill $W; wait $W

## dnsmasq needs dnsmasq
for n in $(seq 60); do echo "10.0.0.$n users$n.example orders$n.example api$n.example"; done > hosts
dnsmasq -k -p 55353 --listen-address=127.0.0.1 --bind-interfaces --no-resolv --no-hosts --addn-hosts=hosts --local=/example/ --log-queries=extra --log-facility="$PWD/log" --user=root & W=$!
sleep 1; "$PYTHON" "$LOAD" dns 55353 2500; kill $W; wait $W

## unbound needs unbound
{ echo "server:"; printf ' interface: 127.0.0.1@55354\n do-daemonize: no\n chroot: ""\n username: ""\n directory: "%s"\n logfile: "%s/log"\n use-syslog: no\n pidfile: "%s/pid"\n verbosity: 4\n log-queries: yes\n log-replies: yes\n log-time-ascii: yes\n local-zone: "example." static\n' "$PWD" "$PWD" "$PWD"
  for n in $(seq 60); do echo " local-data: \"users$n.example A 10.0.1.$n\""; done; } > u.conf
unbound -d -c u.conf & W=$!
sleep 1; "$PYTHON" "$LOAD" dns 55354 1500; kill $W; wait $W

## named needs named
printf 'options { directory "%s"; listen-on port 55355 { 127.0.0.1; }; listen-on-v6 { none; }; recursion no; pid-file none; session-keyfile none; };\ncontrols {};\nzone "example" { type master; file "zone"; };\n' "$PWD" > n.conf
{ printf '$TTL 60\n@ SOA a.example. b.example. 1 60 60 60 60\n@ NS a.example.\na A 10.0.0.1\n'; for n in $(seq 60); do echo "api$n A 10.0.2.$n"; done; } > zone
named -g -d 3 -c n.conf > log 2>&1 & W=$!
sleep 2; "$PYTHON" "$LOAD" dns 55355 1500; kill $W; wait $W

## squid needs squid
pages; (cd www && exec "$PYTHON" -m http.server --bind 127.0.0.1 58087 > /dev/null 2>&1) &
printf 'http_port 127.0.0.1:58086 accel defaultsite=localhost\ncache_peer 127.0.0.1 parent 58087 0 no-query originserver\nhttp_access allow all\naccess_log stdio:%s/log squid\ncache_log %s/cache.log\npid_filename %s/pid\ncache_effective_user proxy\ncoredump_dir %s\npinger_enable off\n' "$PWD" "$PWD" "$PWD" "$PWD" > s.conf
chmod 777 .; squid -N -f s.conf 2> errors & W=$!
sleep 3; "$PYTHON" "$LOAD" http 58086 4500; kill -9 $W

## sshd needs sshd ssh ssh-keygen
ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f key; ssh-keygen -q -t ed25519 -N '' -f bad; cp key.pub ok; chmod 600 ok; mkdir -p /run/sshd
/usr/sbin/sshd -D -e -p 50022 -h "$PWD/host" -o ListenAddress=127.0.0.1 -o AuthorizedKeysFile="$PWD/ok" -o StrictModes=no -o UsePAM=no -o LogLevel=DEBUG3 -o PidFile=none > log 2>&1 & W=$!
sleep 1; for n in $(seq 60); do k=key; [ $((n % 4)) = 0 ] && k=bad; u=root; [ $((n % 7)) = 0 ] && u=guest$n
  ssh -q -p 50022 -i $k -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null $u@127.0.0.1 "echo $n" < /dev/null > /dev/null 2>&1; done; kill $W; wait $W

## rsync needs rsync
rsync -avv --itemize-changes --include='*/' --include='*.py' --include='*.h' --exclude='*.so' --delete --stats /usr/share/perl/ copy/ 2>&1; rsync -avv /usr/include/linux/ copy/ 2>&1; find copy -name '*.h' -newermt 2001-01-01 | head -500 | xargs touch; rsync -avvi /usr/include/linux/ copy/ 2>&1

## tcpdump needs tcpdump
pages; (cd www && exec "$PYTHON" -m http.server --bind 127.0.0.1 58088 > /dev/null 2>&1) &
tcpdump -i lo -nn -l -v 'tcp port 58088' > log 2> /dev/null & W=$!
sleep 2; "$PYTHON" "$LOAD" http 58088 600; kill $W; wait $W

## openssl needs openssl
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost -keyout k.pem -out c.pem 2> /dev/null
openssl s_server -accept 127.0.0.1:54433 -key k.pem -cert c.pem -www -state -msg -security_debug > log 2>&1 & W=$!
sleep 1; for n in $(seq 40); do o=-tls1_3; [ $((n % 3)) = 0 ] && o=-tls1_2; echo | openssl s_client $o -connect 127.0.0.1:54433 > /dev/null 2>&1; done; kill $W; wait $W

## http.server
pages; cd www; "$PYTHON" -m http.server --bind 127.0.0.1 58089 > ../log 2>&1 & W=$!
"$PYTHON" "$LOAD" http 58089 4500; kill $W; wait $W

## uvicorn
"$PYTHON" -m venv v; v/bin/pip install -q uvicorn starlette 2> /dev/null
cat > app.py <<'J'
import logging, random, uuid
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
logging.basicConfig(level=logging.DEBUG, format="%(asctime)s %(levelname)-8s %(name)s: %(message)s")
log, r = logging.getLogger("shop.orders"), random.Random(1)
async def page(request):
    key = uuid.UUID(int=r.getrandbits(128))
    log.info("request %s begins path=%s", key, request.url.path)
    if r.random() < 0.3: log.debug("cache miss for %s, asking store %d", request.url.path, r.randint(1, 4))
    if r.random() < 0.02:
        try: {}[request.url.path]
        except KeyError: log.exception("request %s: no such key", key)
    log.info("request %s ends in %.1f ms", key, r.expovariate(0.1))
    return PlainTextResponse("ok", status_code=200 if r.random() < 0.95 else 503)
app = Starlette(routes=[Route("/{path:path}", page, methods=["GET", "POST", "PUT"])])
J
v/bin/python -m uvicorn app:app --host 127.0.0.1 --port 58090 --log-level trace > log 2>&1 & W=$!
"$PYTHON" "$LOAD" http 58090 900; kill $W; wait $W

## cargo needs cargo
mkdir c; m=""; for n in $(seq 24); do mkdir -p c/k$n/src; echo "pub fn f() -> u32 { let x = $n; x * 2 }" > c/k$n/src/lib.rs; printf '[package]\nname = "k%d"\nversion = "0.%d.0"\nedition = "2021"\n[dependencies]\n' $n $n > c/k$n/Cargo.toml; [ $n -gt 1 ] && echo "k$((n - 1)) = { path = \"../k$((n - 1))\" }" >> c/k$n/Cargo.toml; m="$m\"k$n\","; done
printf '[workspace]\nresolver = "2"\nmembers = [%s]\n' "$m" > c/Cargo.toml; cd c; CARGO_LOG=debug cargo build --offline -vv 2>&1; touch k3/src/lib.rs; CARGO_LOG=debug cargo build --offline -vv 2>&1

## node needs node
printf 'const http = require("http"); let n = 0; const s = http.createServer((q, r) => { r.statusCode = n %% 11 ? 200 : 500; r.end("x".repeat(n %% 300)); }); s.listen(58091, "127.0.0.1", () => { const go = () => { if (n++ > 120) process.exit(0); http.get({ host: "127.0.0.1", port: 58091, path: "/item/" + (n * 7 %% 23) }, r => { r.resume(); r.on("end", go); }); }; go(); });' > s.js
NODE_DEBUG=http,net,stream,timer node s.js 2>&1

## tar needs tar
tar cvvf /dev/null /usr/share/doc /usr/share/perl 2>&1

## ld.so needs ls
LD_DEBUG=all ls > /dev/null 2> one; LD_DEBUG=files,symbols,reloc,libs cat /dev/null 2> two; cat one two

## importtime needs python3
python3 -v -c "import asyncio, http.server, sqlite3, unittest, xml.dom.minidom, ctypes, email.mime.text, tkinter" 2>&1

## mypy
mkdir p; for n in $(seq 12); do printf 'import json, os, socket\ndef f%d(x):\n    return json.dumps(x) + os.name\n' $n > p/m$n.py; done
"$PYTHON" -m mypy -v --no-incremental p 2>&1

## curl needs curl
pages; (cd www && exec "$PYTHON" -m http.server --bind 127.0.0.1 58092 > /dev/null 2>&1) &
sleep 1; for n in $(seq 220); do curl -v --trace-time "http://127.0.0.1:58092/page$((n * 7 % 50)).html" -o /dev/null 2>&1 | tr '\r' ' '; done

## terraform needs terraform
{ for n in $(seq 25); do printf 'resource "terraform_data" "r%d" { input = "v%d" }\n' $n $n; done; echo 'output "o" { value = terraform_data.r3.output }'; } > main.tf
export TF_LOG=trace CHECKPOINT_DISABLE=1; terraform init 2>&1; terraform plan 2>&1; terraform apply -auto-approve 2>&1

## ansible
"$PYTHON" -m venv v; v/bin/pip install -q ansible-core 2> /dev/null; export PATH=$PWD/v/bin:$PATH HOME=$PWD ANSIBLE_LOCALHOST_WARNING=False
{ echo '- hosts: all'; echo '  connection: local'; echo '  gather_facts: false'; echo '  tasks:'; for n in $(seq 18); do printf '  - name: Put file %d in place\n    copy: {content: "v{{ inventory_hostname }}%d", dest: "%s/f{{ inventory_hostname }}%d"}\n  - name: Ask command %d\n    command: "expr {{ inventory_hostname | length }} + %d"\n' $n $n "$PWD" $n $n $n; done; } > p.yml
for n in 1 2 3; do ansible-playbook -vvv -i web1,web2,db-primary, p.yml 2>&1; done

## exim needs exim4
printf 'log_file_path = %s/%%slog\nspool_directory = %s/spool\nprimary_hostname = mail.example\nkeep_environment =\nlog_selector = +all\nbegin routers\nlocal:\n driver = accept\n transport = drop\nbegin transports\ndrop:\n driver = appendfile\n file = /dev/null\n user = nobody\n' "$PWD" "$PWD" > e.conf
for n in $(seq 700); do printf 'Subject: report %d\n\nbody %d\n' $n $((n * n)) | exim4 -C "$PWD/e.conf" -odf -f "user$((n % 19))@site$((n % 5)).example" "box$((n % 23))@mail.example"; done > /dev/null 2>&1; cp mainlog log

## php needs php
printf '<?php $n = (int)($_SERVER["REQUEST_TIME_FLOAT"] * 1000) %% 7; if ($n == 3) { error_log("cart " . $n . " has no owner, path " . $_SERVER["REQUEST_URI"]); } if ($n == 5) { echo $undefined["x"]; } http_response_code($n == 1 ? 404 : 200); echo "ok";' > r.php
php -d display_errors=0 -d log_errors=1 -S 127.0.0.1:58093 r.php > log 2>&1 & W=$!
"$PYTHON" "$LOAD" http 58093 1300; kill $W; wait $W

## celery
"$PYTHON" -m venv v; v/bin/pip install -q celery 2> /dev/null
cat > jobs.py <<'J'
import random, time
from celery import Celery
from celery.utils.log import get_task_logger
app = Celery("jobs", broker="filesystem://", broker_transport_options={"data_folder_in": "q", "data_folder_out": "q"})
log = get_task_logger(__name__)
@app.task(bind=True, max_retries=2)
def resize(self, image, width):
    log.info("resizing image %s to %d px", image, width)
    if random.Random(image).random() < 0.05: raise ValueError(f"image {image} is truncated")
    if width % 7 == 0: log.warning("width %d is not supported, using %d", width, width - 1)
    return width * 2
@app.task
def bill(customer): log.info("billing customer %s", customer); return round(random.random() * 90, 2)
J
mkdir q; v/bin/python -c "
import random, jobs; r = random.Random(2)
for n in range(1300): (jobs.resize.delay(f'img-{r.randrange(400)}', r.randrange(90, 900)) if r.random() < .7 else jobs.bill.delay(f'C{r.randrange(999):04d}'))"
timeout 60 v/bin/celery -A jobs worker -P solo --loglevel DEBUG > log 2>&1 || true
