# Not built yet: where this was written, no Docker daemon ran.
#
# docker build -t sdfl .                            # CPU
# docker build -t sdfl --build-arg EXTRA=cuda12 .   # NVIDIA, run with --gpus=all
# docker run --rm -p 127.0.0.1:8000:8000 sdfl       # the page, with the network starter
# docker run --rm -v "$PWD:/data" sdfl predict --out=/data/predictions /data/photo.jpg

FROM python:3.11-slim
ARG EXTRA=

# Libraries of CUDA come as wheels, so one base serves both.
COPY pyproject.toml README.md LICENSE NOTICE requirements.txt /src/
COPY configs /src/configs
COPY sdfl_jax /src/sdfl_jax
RUN pip install --no-cache-dir "/src${EXTRA:+[$EXTRA]}" && rm -r /src

RUN useradd --create-home --uid 1000 sdfl
USER sdfl
WORKDIR /home/sdfl

EXPOSE 8000
HEALTHCHECK --start-period=60s CMD ["python", "-c", \
    "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz')"]
ENTRYPOINT ["sdfl"]
CMD ["serve", "--host=0.0.0.0"]
