# $model version $version ($tag), written by `headway package`.
# From the unpacked bento: docker build -f env/docker/Dockerfile -t $model:$version .
FROM $image

ENV $environment

# All pins, each with its hashes; no compiler: what has no wheel is refused.
COPY env/python/requirements.txt /bento/env/python/requirements.txt
RUN ["pip", "install", "--no-cache-dir", "--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:", "-r", "/bento/env/python/requirements.txt"]

# The code stays root's: the service can read it, and write nothing but its state.
COPY . /bento
RUN groupadd --gid 10001 headway && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /state headway \
    && install -d -o headway -g headway -m 0700 /state
USER 10001:10001
WORKDIR /bento
VOLUME /state

# In a container all addresses of it, or nothing could be published; API keys are asked for there.
EXPOSE 3000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:3000/v1/ready', timeout=4)"]
ENTRYPOINT ["bentoml", "serve", "/bento"]
